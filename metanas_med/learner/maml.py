"""MAML (Finn et al. 2017, arXiv 1703.03400) through learn2learn: the gradient of a query loss through the inner steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..l2l import import_learn2learn

BatchT = TypeVar("BatchT")


def maml_gradient(
    net: nn.Module,
    loss: Callable[[Any, BatchT], Tensor],
    support: Sequence[BatchT],
    query: BatchT,
    *,
    lr: float,
    first_order: bool = False,
) -> tuple[dict[str, Tensor], float]:
    """Return the gradient, by parameter name, of the query loss after a step on each batch of ``support``; and that loss.

    ``loss(net, batch)`` is a scalar; ``net`` does not change. ``first_order`` drops the second derivatives (FOMAML). An unused
    parameter, or one that needs no gradient and so takes no inner step, has a zero gradient. Second order keeps the graphs of
    all steps, so memory grows with their number.
    """
    learn2learn = import_learn2learn()
    learner = learn2learn.algorithms.MAML(net, lr=lr, first_order=first_order, allow_unused=True).clone()
    for batch in support:
        learner.adapt(loss(learner, batch), allow_nograd=True)
    value = loss(learner, query)
    named = dict(net.named_parameters())
    moved = {name: p for name, p in named.items() if p.requires_grad}
    grads = dict(zip(moved, torch.autograd.grad(value, list(moved.values()), allow_unused=True), strict=True))
    found = {name: torch.zeros_like(p) if (g := grads.get(name)) is None else g for name, p in named.items()}
    return found, float(value.detach())
