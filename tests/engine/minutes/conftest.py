"""Fixtures of searches with a time budget: a tiny start, portfolios, and settings that compare from the first seconds on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from metanas_med.data.cached import CachedDataset, open_cache
from metanas_med.engine.adapt import AdaptSettings
from metanas_med.engine.configuration import Configuration
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.minutes.portfolio import Candidate, write_portfolio
from metanas_med.engine.minutes.run import adapt_minutes
from metanas_med.engine.minutes.settings import MinutesSettings
from metanas_med.engine.state import build_network, meta_state

from .clock import Ticker

MakePortfolio = Callable[..., Path]
Go = Callable[..., dict[str, Any]]

_LEARNER = {"optimizer": "adam", "steps": 2, "batch": 4, "ridge_voxels": 60, "lr": 0.01, "alpha": "frozen"}
_QUICK: dict[str, Any] = {
    "least_search_steps": 20,
    "least_estimate_steps": 10,
    "least_fit_steps": 3,
    "write_seconds": 0.2,
    "workers": 1,
}
_QUICK["search_share"] = 0.75  # the final fit is short


@pytest.fixture(scope="session")
def start(tiny_settings: Callable[..., Any]) -> MetaRun:
    """A start with untrained weights, so that no meta-training is needed."""
    changes = {f"adapt.{key}": value for key, value in _LEARNER.items()}
    settings = tiny_settings(**changes, **{"plan.view_voxels": 4000, "adapt.average": 0.5, "adapt.lr_decay": "cooldown"})
    return MetaRun(settings, meta_state(build_network(settings.space, 1)), {}, "0" * 64, (), ())


@pytest.fixture(scope="session")
def pair(phantom_cache: Path) -> CachedDataset:
    return open_cache(phantom_cache / "Phantom06_Pair.h5")


@pytest.fixture
def make_portfolio(tmp_path: Path, start: MetaRun) -> MakePortfolio:
    """``make_portfolio(picks, ...)`` writes a portfolio of configurations and returns its folder."""

    def make(*picks: dict[str, str], space: str = "", seconds: Sequence[float] = ()) -> Path:
        times = seconds or [1.0] * len(picks)
        candidates = [Candidate(Configuration(each), t, 0.01) for each, t in zip(picks, times, strict=True)]
        folder = tmp_path / "portfolio"
        write_portfolio(folder, space or start.settings.space.name, candidates, {"datasets": ["made up"]})
        return folder

    return make


@pytest.fixture
def go(start: MetaRun, pair: CachedDataset, tmp_path: Path) -> Go:
    """``go(seconds, clock=..., how={...}, **fields of AdaptSettings)`` adapts from four scans and returns the note."""

    def run(seconds: float, *, data: Any = None, how: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
        own = {key: given.pop(key) for key in ("resume", "portfolio", "on_news") if key in given}
        clock = given.pop("clock", None) or Ticker()
        base: dict[str, Any] = {"shots": 4, "evaluate": 0, "images": False, "device": "cpu", "precision": "float32"}
        out = given.pop("out", tmp_path / "m")
        settings, search = AdaptSettings(**{**base, **given}), MinutesSettings(**{**_QUICK, **(how or {})})
        return adapt_minutes(start, data or pair, out, seconds / 60, settings, search, now=clock, **own)

    return run
