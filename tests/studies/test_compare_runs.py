"""The comparison of meta-trainings: rows of other settings are recognised; intervals of few draws."""

from __future__ import annotations

import numpy as np
import pytest

from metanas_med.data.settings import PlanSettings
from metanas_med.studies.benchmark.settings import shipped_benchmark
from metanas_med.studies.compare_runs.page import bootstrap_mean
from metanas_med.studies.compare_runs.run import settings_hash


def test_a_default_that_changed_is_another_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = shipped_benchmark()
    now = settings_hash(settings)
    plan = PlanSettings(view_voxels=settings.plan.view_voxels, adapt_voxels=settings.plan.adapt_voxels)
    assert settings_hash(settings.model_copy(update={"plan": plan})) == now
    # a version with another default adapts differently, although the configuration file is the same
    monkeypatch.setattr(PlanSettings.model_fields["drop_small"], "default", False)
    PlanSettings.model_rebuild(force=True)
    other = PlanSettings(view_voxels=settings.plan.view_voxels, adapt_voxels=settings.plan.adapt_voxels)
    try:
        assert other.drop_small is False and settings_hash(settings.model_copy(update={"plan": other})) != now
    finally:
        monkeypatch.undo()
        PlanSettings.model_rebuild(force=True)
    assert PlanSettings().drop_small is True


def test_intervals_of_a_few_draws_match_their_variance() -> None:
    """The standard deviation that an interval implies is unbiased, on average over many samples of three draws."""
    rng = np.random.default_rng(0)
    intervals = [bootstrap_mean(rng.normal(size=(1, 4, 3)), 400) for _ in range(200)]
    widths = [high - low for low, high in intervals]
    assert np.mean(np.square(widths)) == pytest.approx((2 * 1.96) ** 2 / 12, rel=0.1)
