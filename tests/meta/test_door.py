"""A meta learner is added by one short file, and then chosen by its name in the settings of a meta-training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas_med import l2l
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import meta_train
from metanas_med.errors import ConfigError
from metanas_med.meta import METAS

MAML = '''
from metanas_med.meta import Fomaml, FomamlSettings, register_meta


class MamlSettings(FomamlSettings):
    name: str = "maml"


@register_meta("maml", settings=MamlSettings, source="Finn et al. 2017, arXiv 1703.03400, algorithm 1")
class Maml(Fomaml):
    """A step down the mean gradient of the query losses, taken through the inner steps."""

    query_gradient = "exact"
'''


@pytest.mark.skipif(not l2l.has_learn2learn(), reason="learn2learn is not installed")
@pytest.mark.learn2learn
def test_second_order_maml_in_one_file(add_part: Callable[..., None], tiny_settings: Callable[..., Any], tmp_path: Path) -> None:
    add_part(METAS, "metanas_med.meta", MAML)
    common = {
        "learner.name": "sgd",
        "learner.lr": 0.1,
        "learner.steps": 1,
        "learner.head": "meta_row",
        "meta.iterations": 1,
        "meta.batch": 1,
        "meta.num_validation": 0,
        "tasks.shots": (2,),
    }
    found = {}
    for name in ("fomaml", "maml"):
        run = MetaRun.load(meta_train(tiny_settings(**common, **{"meta.name": name}), tmp_path / name))
        assert run.settings.meta.name == name
        found[name] = run.state.weights
    assert any(not torch.equal(found["maml"][n], w) for n, w in found["fomaml"].items())  # second derivatives count
    with pytest.raises(ConfigError, match=r"meta\.name maml needs .* Choose learner\.name sgd"):
        meta_train(tiny_settings(**{"meta.name": "maml"}), tmp_path / "refused")


MOMENTUM = '''
from metanas_med.meta import MetaState, Reptile, ReptileSettings, register_meta


class MomentumSettings(ReptileSettings):
    name: str = "momentum"


@register_meta("momentum", settings=MomentumSettings)
class Momentum(Reptile):
    """Reptile whose steps of the weights have momentum."""

    def __init__(self, settings):
        super().__init__(settings)
        self.moved = {}

    def step(self, state, updates, progress):
        after = super().step(state, updates, progress)
        for name, value in state.weights.items():
            self.moved[name] = 0.9 * self.moved.get(name, 0.0) + after.weights[name] - value
        return MetaState({n: w + self.moved[n] for n, w in state.weights.items()}, after.alphas)

    def state(self):
        return dict(self.moved)

    def load(self, state):
        self.moved = dict(state)
'''


def test_the_memory_of_a_meta_learner_survives_a_stop(
    add_part: Callable[..., None], tiny_settings: Callable[..., Any], tmp_path: Path
) -> None:
    add_part(METAS, "metanas_med.meta", MOMENTUM)
    common = {"meta.name": "momentum", "meta.final_beta": 1.0, "meta.num_validation": 0, "meta.batch": 1}
    whole = meta_train(tiny_settings(**common, **{"meta.iterations": 4}), tmp_path / "whole")
    part = meta_train(tiny_settings(**common, **{"meta.iterations": 2}), tmp_path / "part")
    meta_train(tiny_settings(**common, **{"meta.iterations": 4}), part, resume=True)
    one, other = (MetaRun.load(folder).state.weights for folder in (whole, part))
    assert all(torch.equal(one[name], other[name]) for name in one)
