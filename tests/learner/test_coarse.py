"""Coarse views and smaller batches in the first steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from metanas_med.learner import build_learner
from metanas_med.learner.coarse import coarsen

from .toy import SHAPE, ToyBatch, ToySupport, context, make_net, settings
from .watch import state_of


def batch(shape: tuple[int, int, int], organs: int = 2, size: int = 2) -> ToyBatch:
    rng = torch.Generator().manual_seed(0)
    return ToyBatch(
        torch.randn(size, 2, *shape, generator=rng),
        torch.rand(size, 3, *shape, generator=rng),
        torch.randint(0, organs + 1, (size, *shape), generator=rng),
        tuple(range(size)),
        ((1,), ()),
    )


@pytest.mark.parametrize("shape", [(8, 6, 4), (9, 7, 5)])
@pytest.mark.parametrize(("strides", "dims", "factors"), [
    (((2, 2, 2), (2, 2, 2)), 3, (2, 2, 2)), (((2, 2, 1), (2, 2, 2)), 3, (2, 2, 1)), (((2, 2, 2),), 2, (2, 2, 1)), ((), 3, (1, 1, 1)),
])  # fmt: skip
def test_means_and_majorities(shape: Any, strides: Any, dims: int, factors: Any) -> None:
    given = batch(shape)
    found = coarsen(given, strides, dims)
    sizes = tuple(-(-n // k) for n, k in zip(shape, factors, strict=True))
    assert found.images.shape[2:] == found.coords.shape[2:] == found.labels.shape[1:] == sizes
    assert found.labels.dtype == torch.int64 and found.missing == given.missing and len(found.strides) == len(strides)
    for place in np.ndindex(*sizes):
        window = tuple(slice(k * i, k * (i + 1)) for i, k in zip(place, factors, strict=True))
        for name in ("images", "coords"):
            mean = getattr(given, name)[(slice(None), slice(None), *window)].mean((2, 3, 4))
            torch.testing.assert_close(getattr(found, name)[(slice(None), slice(None), *place)], mean)
        for entry in range(2):
            counts = torch.bincount(given.labels[(entry, *window)].flatten(), minlength=3)
            assert int(found.labels[(entry, *place)]) == int(counts.argmax())  # the first of equal ones


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    [
        ((32, 32, 32), ((2, 2, 2),) * 3, ((2, 2, 2), (2, 2, 2), (1, 1, 1))),
        ((64, 64, 64), ((2, 2, 2),) * 3, ((2, 2, 2),) * 3),
        # the schedule of a plan at twice the in-plane spacing
        ((32, 32, 8), ((2, 2, 1), (2, 2, 1), (2, 2, 2)), ((2, 2, 1), (2, 2, 2), (1, 1, 1))),
        ((20, 20, 20), ((2, 2, 2),), ((2, 2, 2),)),
    ],
)
def test_the_schedule_of_a_coarse_view(shape: Any, strides: Any, expected: Any) -> None:
    assert coarsen(batch(shape), strides).strides == expected


@pytest.mark.parametrize("search", [True, False])
def test_early_steps_see_less(search: bool) -> None:
    """A step costs a quarter or less: the first transition halves two axes or three."""
    given: dict[str, Any] = {"steps": 6, "batch": 4, "early": 0.5, "early_batch": 2}
    if not search:
        given["alpha"] = "frozen"
    net, support, seen = make_net("unet_supernet" if search else "unet"), ToySupport(4), []
    hook = net.register_forward_pre_hook(
        lambda _, arguments: seen.append(tuple(arguments[0].shape)) if torch.is_grad_enabled() else None
    )
    adapted = build_learner(settings(**given)).run(net, support.task(), context())
    hook.remove()
    assert len(adapted.report.losses) == 6 and np.isfinite(adapted.report.losses).all()
    full, coarse = (4, 1, *SHAPE), (2, 1, 5, 5, 6)
    if search:  # two copies, and alpha steps; the discrete network of the last steps is another module
        early = seen.count(coarse)
        assert early >= 6 and set(seen[:early]) == {coarse} and set(seen[early:]) <= {full}
        assert support.requests[-1][0] == 4
    else:
        assert seen == [coarse] * 3 + [full] * 3
    assert settings(**given).early_steps(6) == 3 and settings(**given | {"early": 0.0}).early_steps(6) == 0


def test_without_early_steps_nothing_changes() -> None:
    states = []
    for given in ({}, {"early": 0.5, "coarse": False, "early_batch": 0}, {"early": 0.5}, {"early": 0.5, "early_batch": 99}):
        net = make_net("unet")
        build_learner(settings(**given)).run(net, ToySupport(2).task(), context())
        states.append(state_of(net))
    plain, off, coarse, larger = states

    def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(a[name], b[name]) for name in a)

    assert equal(plain, off) and not equal(plain, coarse)
    assert equal(coarse, larger)  # never more patches than a full step


def test_a_coarse_step_costs_a_quarter_or_less() -> None:
    from metanas_med.space import supernet_multiply_adds

    net = make_net("unet", base_width=8, max_width=32, levels=4)
    for strides, most in ((((2, 2, 2),) * 3, 0.14), (((2, 2, 1), (2, 2, 2), (2, 2, 2)), 0.26)):
        given = batch((32, 32, 32))
        found = coarsen(given, strides)
        full, part = (
            supernet_multiply_adds(net.body.settings, labels.shape[1:], steps)
            for labels, steps in ((given.labels, strides), (found.labels, found.strides))
        )
        assert part < most * full
