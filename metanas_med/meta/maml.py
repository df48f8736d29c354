"""MAML (Finn et al. 2017, arXiv 1703.03400) through learn2learn: the gradient of a query loss through the inner steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..l2l import import_learn2learn

BatchT = TypeVar("BatchT")


def maml_gradient(
    net: nn.Module,
    loss: Callable[[Any, BatchT], Tensor],
    support: BatchT,
    query: BatchT,
    *,
    lr: float,
    steps: int = 1,
    first_order: bool = False,
) -> tuple[dict[str, Tensor], float]:
    """Return the gradient, by parameter name, of the query loss after ``steps`` gradient steps on the support; and that loss.

    ``loss(net, batch)`` is a scalar; ``net`` stays as it was. ``first_order`` drops the second derivatives (FOMAML). A parameter
    that plays no part has a gradient of zero. Second order holds the graphs of all steps: memory grows with ``steps``.
    """
    learn2learn = import_learn2learn()
    learner = learn2learn.algorithms.MAML(net, lr=lr, first_order=first_order, allow_unused=True).clone()
    for _ in range(steps):
        learner.adapt(loss(learner, support))
    value = loss(learner, query)
    named = dict(net.named_parameters())
    grads = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    found = {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), grads, strict=True)}
    return found, float(value.detach())
