"""Every fault of the corpus is refused with an error that names the file, or read right; none hangs or takes a GiB."""

from __future__ import annotations

from pathlib import Path

import pytest

from .corpus import Fault, attempt, counted
from .registry import FAULTS


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_is_refused_or_read_right(fault: Fault, tmp_path: Path) -> None:
    outcome = attempt(fault, tmp_path / "it")
    assert outcome.fits(fault), f"{outcome.ending} after {outcome.seconds:.1f} s, {outcome.num_bytes >> 20} MiB: {outcome.text}"


def test_names_differ_and_there_are_more_than_two_hundred_faults() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == sum(counted(FAULTS).values())
    assert sum(not fault.valid for fault in FAULTS) >= 200
