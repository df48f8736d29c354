"""The penalty of DiNTS: what it costs, when it sets in, and which spaces it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from metanas_med.errors import ConfigError
from metanas_med.learner.regularizers import REGULARIZERS
from metanas_med.learner.regularizers.topology import TopologyPenalty, TopologySettings
from metanas_med.space import UNetSupernetSettings, get_space, one_hot_alphas, random_genotype
from metanas_med.space.choice import Relaxed
from metanas_med.space.dints import DintsSettings
from metanas_med.space.network import SegmentationNet

SETTINGS = DintsSettings(base_width=2, max_width=4, levels=3, blocks=2)
TASK: Any = SimpleNamespace(view=(8, 8, 4), strides=((2, 2, 1), (2, 2, 2)))


def network(settings: Any = SETTINGS) -> SegmentationNet:
    return SegmentationNet(get_space(settings).build(None, torch.Generator().manual_seed(0)), 1, 1)


def test_the_penalty_grows_after_the_warm_up() -> None:
    net = network()
    net.body.init_alphas(torch.Generator().manual_seed(1), 0.5)
    penalty = cast(Any, REGULARIZERS.build("topology", TopologySettings(warm_up=0.5))).on(net, TASK)
    found = []
    for progress in (0.0, 0.5, 0.75, 1.0):
        net.body.relax(Relaxed(progress=progress))
        found.append(penalty(net))
    assert float(found[0]) == float(found[1]) == 0 < float(found[2].detach())
    assert float(found[3].detach()) == pytest.approx(2 * float(found[2].detach()))
    found[3].backward()
    assert all(row.grad is not None and row.grad.isfinite().all() and row.grad.any() for row in net.alphas().values())


def test_a_decided_architecture_pays_for_its_memory_alone() -> None:
    net = network()
    one_hot_alphas(net.body, random_genotype(SETTINGS, torch.Generator().manual_seed(2)))
    with torch.no_grad():
        for row in net.body.alphas().values():
            if not row.any():
                row[0] = 1e4  # operations of edges that are off: any, but decided
    net.body.relax(Relaxed(progress=1.0))
    shares = []
    for budget in (0.0, 1.0):
        penalty = TopologyPenalty(TopologySettings(warm_up=0, budget=budget)).on(net, TASK)
        shares.append(float(penalty(net).detach()))
    assert sum(shares) == pytest.approx(1.0, abs=1e-3) and 0 < shares[0] < 1


def test_other_spaces_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs space.name dints, found unet_supernet"):
        TopologyPenalty(TopologySettings()).on(network(UNetSupernetSettings(base_width=2, max_width=4)), TASK)
