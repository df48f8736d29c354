"""Settings of ``adapt --minutes``."""

from __future__ import annotations

from pydantic import Field

from ...config import Section


class MinutesSettings(Section):
    """How a budget is spent. Shares are of the time that is left after the first measurement."""

    least_search_steps: int = Field(
        default=150, ge=1
    )  #: steps of the default that a budget must allow before anything is compared
    least_estimate_steps: int = Field(default=60, ge=1)  #: the same, before the default is cross-validated for an estimate
    search_share: float = Field(default=0.4, ge=0, lt=1)  #: of the time, for comparisons on folds
    estimate_share: float = Field(default=0.2, ge=0, lt=1)  #: of the time, where only the default is cross-validated
    eta: int = Field(default=3, ge=2)  #: one of this many candidates goes on to the next round
    max_candidates: int = Field(default=9, ge=1)  #: largest number of candidates from the portfolio, the default included
    least_fit_steps: int = Field(default=15, ge=1)  #: steps of the shortest fit of a comparison
    folds: int = Field(default=2, ge=2)  #: parts of the support that are left out in turn
    max_repeats: int = Field(default=2, ge=1)  #: largest number of random splits in the last round
    repeat_steps: int = Field(default=200, ge=1)  #: steps that fits of the last round keep if another split is added
    members: int = Field(default=2, ge=1, le=16)  #: fits in an average; 1: averages are never tried
    tta_share: float = Field(default=0.1, ge=0, lt=1)  #: of a fit's time, that test-time augmentation may take to be measured
    search_one_patient: bool = False  #: compare candidates although all scans are of one patient
    workers: int = Field(default=0, ge=0)  #: processes of one thread each for comparisons; 0: one a core; 1: none
    process_seconds: float = Field(default=8.0, ge=0)  #: time that starting processes takes; they get ten times as much work
    write_seconds: float = Field(default=1.0, ge=0)  #: reserve for writing the model
    slack: float = Field(default=0.02, ge=0, lt=1)  #: of the budget: reserve for what cannot be measured
