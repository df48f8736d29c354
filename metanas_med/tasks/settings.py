"""Settings of the task distribution."""

from __future__ import annotations

from pydantic import Field

from ..config import Section


class TaskSettings(Section):
    """Which organs train, and what an episode is."""

    distribution: str = ""  #: name or path of a distribution YAML; empty: every data set in the cache
    hold_out: tuple[str, ...] = ()  #: groups or data sets left out, added to the distribution's own
    validation: tuple[str, ...] = ()  #: data sets whose tasks only validate
    shots: tuple[int, ...] = (2, 5)  #: support sizes drawn in meta-training
    num_query: int = Field(default=1, ge=1)  #: query scans of a validation episode
    unions: bool = True  #: also draw all labels of a data set at once, and their union
    synthetic: float = Field(
        default=0.4, ge=0, le=1
    )  #: share of training episodes that are made up: random label maps and contrasts
    recast: float = Field(
        default=0.5, ge=0, le=1
    )  #: share of the others whose scans get one new intensity curve and the same flips
