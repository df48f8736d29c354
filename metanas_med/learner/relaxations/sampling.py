"""Draws that relaxations share. Rows of one length go together: a search draws for about a hundred rows in every step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def gumbel_like(row: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard Gumbel noise of the shape of ``row``: ``-log(E)`` with E exponential."""
    return -torch.empty(row.shape).exponential_(generator=generator).log().to(row)


def draw_options(rows: Mapping[str, Tensor], number: int, generator: torch.Generator) -> dict[str, tuple[int, ...]]:
    """Return ``number`` different options of each row (fewer where it has fewer), drawn with probabilities softmax(row).

    Gumbel top-k draws without replacement (Kool et al. 2019, arXiv 1903.06059).
    """
    found = {}
    for name, row in rows.items():
        noisy = row.detach().cpu() + gumbel_like(row.detach().cpu(), generator)
        found[name] = tuple(int(option) for option in noisy.topk(min(number, row.numel())).indices)
    return found


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return values of ``hard`` with the gradient of ``soft``, exactly: ``hard + (soft - soft)`` rounds nothing."""
    return hard + (soft - soft.detach())
