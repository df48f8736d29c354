"""Evolution over the networks of a supernet: it finds the best of all, and one path is the discrete network."""

from __future__ import annotations

import itertools

import pytest
import torch

from metanas_med.learner import DartsLearner
from metanas_med.learner.discretizers import DISCRETIZERS
from metanas_med.learner.discretizers.evolution import EvolutionSettings
from metanas_med.learner.discretizers.perturbation import views_loss
from metanas_med.space import derive, random_genotype, read_genotype
from metanas_med.space.choice import Relaxed
from metanas_med.space.genotype import one_path

from .toy import STRIDES, ToySupport, context, make_net
from .toy import settings as make_settings

#: a supernet of few networks
SMALL = {"levels": 2, "nodes": (1,), "candidates": ("conv333", "conv111"), "search_residual": False, "search_depth": False}


@pytest.mark.parametrize("edge", ["merged", "darts"])
def test_one_path_is_the_discrete_network(edge: str) -> None:
    net = make_net("unet_supernet", torch.float64, edge=edge, edge_weights=True)
    x = torch.randn(1, 1, 10, 9, 6, dtype=torch.float64)
    for seed in range(3):
        found = random_genotype(net.body.settings, torch.Generator().manual_seed(seed))
        picks = read_genotype(found)[1]
        net.body.relax(Relaxed(fixed=one_path(net.body, picks)))
        want = net.with_body(derive(net.body, found)).features(x, STRIDES)
        for one, other in zip(net.features(x, STRIDES), want, strict=False):
            assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)


def test_a_large_evolution_finds_the_best_network_of_all() -> None:
    """Against enumeration."""
    net, task = make_net(**SMALL), ToySupport(2).task()  # type: ignore[arg-type]
    net.start_task(1, 1)
    rows = net.body.rows()
    losses = {}
    for options in itertools.product(*(range(len(row.options)) for row in rows.values())):
        net.body.relax(Relaxed(fixed=one_path(net.body, dict(zip(rows, options, strict=True)))))
        losses[options] = views_loss(net, task, context())
    net.body.relax(Relaxed())
    part = DISCRETIZERS.build("evolution", EvolutionSettings(population=32, generations=6))
    found = part.genotype(net, task, context())
    assert found is not None and len(losses) > 8
    picks = read_genotype(found)[1]
    assert losses[tuple(picks.get(name, 0) for name in rows)] == pytest.approx(min(losses.values()), abs=1e-6)
    assert net.body.relaxed == Relaxed()


def test_single_path_trains_and_evolution_chooses() -> None:
    """A whole run: alphas stay, and the result is a discrete network."""
    settings = make_settings(
        steps=4,
        relaxation={"name": "uniform", "fair": True},
        discretizer={"name": "evolution", "population": 3, "generations": 1},
    )
    net = make_net()
    before = {name: row.detach().clone() for name, row in net.alphas().items()}
    adapted = DartsLearner(settings).run(net, ToySupport(5).task(), context())
    assert adapted.report.genotype is not None and adapted.net.body.picks is not None
    assert all(torch.allclose(row, before[name], atol=1e-3) for name, row in net.alphas().items())
