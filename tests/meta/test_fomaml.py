"""First-order MAML: the outer step in closed form."""

from __future__ import annotations

import pytest
import torch

from metanas_med import l2l
from metanas_med.meta import Fomaml, FomamlSettings, MetaState, Update, build_meta, center_row

pytestmark = [
    pytest.mark.skipif(not l2l.has_learn2learn(), reason="learn2learn is not installed"),
    pytest.mark.learn2learn,
]


def start() -> MetaState:
    g = torch.Generator().manual_seed(0)
    return MetaState(
        {"a": torch.randn(3, 2, generator=g), "b": torch.randn(4, generator=g)}, {"row": torch.tensor([1.0, 2.0, 6.0])}
    )


def update(seed: int) -> Update:
    """Return an update whose end and gradient are random, and differ."""
    g = torch.Generator().manual_seed(seed)
    gradient = {name: torch.randn(value.shape, generator=g) for name, value in start().weights.items()}
    end = MetaState({name: torch.randn(value.shape, generator=g) for name, value in gradient.items()}, {"row": torch.ones(3)})
    return Update(end, gradient)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_weights_step_down_the_mean_gradient(progress: float) -> None:
    meta = build_meta(FomamlSettings(beta_weights=0.4, final_beta=0.25))
    assert isinstance(meta, Fomaml) and meta.needs_query and meta.query_gradient == "first_order"
    rate = 0.4 * (1 - 0.75 * progress)
    assert meta.rates(progress) == {"beta_weights": pytest.approx(rate)}
    given = [update(seed) for seed in (1, 2, 3)]
    new = meta.step(start(), iter(given), progress)
    for name, value in start().weights.items():
        gradients = torch.stack([each.gradient[name] for each in given if each.gradient is not None])
        torch.testing.assert_close(new.weights[name], value - rate * gradients.mean(0), rtol=1e-6, atol=1e-6)
    assert torch.equal(new.alphas["row"], center_row(start().alphas["row"]))  # alphas stay, centred


def test_without_a_gradient_nothing_moves() -> None:
    meta, state = build_meta(FomamlSettings()), start()
    assert meta.step(state, [], 0.0) is state
    assert meta.step(state, [Update(None, bad="the loss became nan")], 0.0) is state
