"""Which scans judge alphas, and which train weights."""

from __future__ import annotations

import pytest

from metanas_med.learner.alpha_gradients import ALPHA_GRADIENTS, FirstOrderSettings

from .toy import rng


@pytest.mark.parametrize(("num_scans", "share", "judges"), [(4, 0.5, 2), (5, 0.5, 2), (5, 0.25, 1), (12, 0.25, 3), (4, 0.01, 1)])
def test_a_single_split_leaves_a_share_of_the_scans_to_the_alphas(num_scans: int, share: float, judges: int) -> None:
    part = ALPHA_GRADIENTS.build("first_order", FirstOrderSettings(cross_fit=False, share=share))
    halves = part.split(num_scans, rng())
    assert len(halves.other[0]) == judges and sorted(halves.train[0] + halves.other[0]) == list(range(num_scans))
    assert f"{judges} of {num_scans}" in halves.kind and not halves.cross
