"""``scripts/compare_runs.py``: rows of another adaptation are not mixed with those of now."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from metanas_med.config import PlanSettings, load_settings
from metanas_med.resources import find_resource
from metanas_med.studies.benchmark.settings import BenchmarkSettings


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("compare_runs")


def test_a_default_that_changed_is_another_setting(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Any = load_settings(find_resource("configs", "benchmark"), (), BenchmarkSettings)
    now = script._hash(settings)
    plan = PlanSettings(view_voxels=settings.plan.view_voxels)
    assert script._hash(settings.model_copy(update={"plan": plan})) == now
    # a version whose default was another one adapted otherwise, though its configuration file reads the same
    monkeypatch.setattr(PlanSettings.model_fields["drop_small"], "default", False)
    PlanSettings.model_rebuild(force=True)
    other = PlanSettings(view_voxels=settings.plan.view_voxels)
    try:
        assert other.drop_small is False and script._hash(settings.model_copy(update={"plan": other})) != now
    finally:
        monkeypatch.undo()
        PlanSettings.model_rebuild(force=True)
    assert PlanSettings().drop_small is True


def test_intervals_of_a_few_draws_are_as_wide_as_their_variance_says(script: ModuleType) -> None:
    """The standard deviation that an interval tells is unbiased: of many draws of three, on the mean, that of their mean."""
    rng = np.random.default_rng(0)
    widths = [np.subtract(*script._interval(rng.normal(size=(1, 4, 3)), 400)[::-1]) for _ in range(200)]
    assert np.mean(np.square(widths)) == pytest.approx((2 * 1.96) ** 2 / 12, rel=0.1)
