"""Every fault of the corpus is refused with an error that names the file, or read right; none hangs or takes a GiB."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from .config_faults import PLANTED
from .corpus import Fault, Outcome, attempt_all
from .registry import FAULTS


@pytest.fixture(scope="session")
def outcome_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Fault], Outcome]:
    """``outcome_of(fault)``: all faults of a kind are tried together, in one process."""
    found: dict[str, Outcome] = {}

    def of(fault: Fault) -> Outcome:
        if fault.name not in found:
            alike = [other for other in FAULTS if other.kind == fault.kind]
            outcomes = attempt_all(alike, tmp_path_factory.mktemp("faults"))
            found.update({other.name: outcome for other, outcome in zip(alike, outcomes, strict=True)})
        return found[fault.name]

    return of


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_is_refused_or_read_right(fault: Fault, outcome_of: Callable[[Fault], Outcome]) -> None:
    outcome = outcome_of(fault)
    assert not Path("executed").exists() and not Path(PLANTED).exists(), "planted code was executed"
    assert outcome.fits(fault), f"{outcome.ending} after {outcome.seconds:.1f} s, {outcome.num_bytes >> 20} MiB: {outcome.text}"


def test_there_are_far_more_than_two_hundred_faults_with_names_of_their_own() -> None:
    assert [name for name, number in Counter(fault.name for fault in FAULTS).items() if number > 1] == []
    assert sum(not fault.valid for fault in FAULTS) >= 200
