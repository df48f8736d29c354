"""The tiny benchmark that these tests share."""

from __future__ import annotations

from typing import Any

import pytest

from metanas_med.studies.benchmark.settings import BenchmarkSettings

from .made_up import GROUP, METHODS_HERE


@pytest.fixture
def settings(tiny_benchmark: Any) -> BenchmarkSettings:
    few = {"shots": [2], "curve_steps": [3], "matched_steps": [4], "curve_query": 1, "plan": {"view_voxels": 400}}
    # of two channels, some architectures are cheaper than any U-Net, and a search of two iterations may find one
    run = {"features.steps": 1, "space.base_width": 4, "space.max_width": 8}
    return tiny_benchmark(run, groups=[GROUP], methods=METHODS_HERE, **few)
