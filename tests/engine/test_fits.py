"""Which meta learners and task learners fit together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanas_med.engine.fits import check_adapts, check_meta
from metanas_med.engine.meta_train import meta_train
from metanas_med.errors import ConfigError
from metanas_med.learner import DartsSettings, SgdSettings
from metanas_med.meta import FomamlSettings, ReptileSettings


def test_a_meta_learner_that_needs_a_query_gradient_wants_a_task_learner_that_gives_one() -> None:
    check_meta(ReptileSettings(), DartsSettings())
    check_meta(ReptileSettings(), SgdSettings())
    check_meta(FomamlSettings(), SgdSettings())
    with pytest.raises(
        ConfigError, match=r"meta\.name fomaml needs .* learner\.name darts does not.* Choose learner\.name sgd\."
    ):
        check_meta(FomamlSettings(), DartsSettings())


def test_unknown_parts_are_refused() -> None:
    check_adapts(SgdSettings())
    with pytest.raises(ConfigError, match="did you mean 'darts'"):
        check_adapts(DartsSettings(name="dart"))
    with pytest.raises(ConfigError, match="did you mean 'reptile'"):
        check_meta(ReptileSettings(name="reptil"), DartsSettings())


def test_a_run_that_does_not_fit_writes_nothing(tiny_settings: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learner.name sgd"):
        meta_train(tiny_settings(**{"meta.name": "fomaml"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
