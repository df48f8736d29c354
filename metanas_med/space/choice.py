"""The rows of alphas, and what their softmax says at one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .plan import pairs_of


class Alphas(nn.Module):
    """Rows of architecture parameters, one 1-D parameter each; calling it returns them by their names in the body."""

    def __init__(self, rows: Mapping[str, list[str]] | None = None) -> None:
        super().__init__()
        for name, options in (rows or {}).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(len(options))))

    def forward(self) -> dict[str, nn.Parameter]:
        return {f"alphas.{name}": row for name, row in self.named_parameters()}


@dataclass(frozen=True)
class Choice:
    """Probabilities of every row; empty for a network without alphas, where every question is answered with "all of it"."""

    rows: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, list[float]] | None = None  #: the same as numbers, known only when something may be left out
    prune: float = 0.0
    logits: Tensor | None = None  #: of the depth row, divided by tau

    def options(self, row: str, count: int) -> list[int]:
        """Return which of the options are run: those at ``prune`` and above, and always the most probable one."""
        if self.values is None or row not in self.values:
            return list(range(count))
        p = self.values[row]
        top = p.index(max(p))
        return [index for index in range(count) if p[index] >= self.prune or index == top]

    def on(self, row: str, option: int) -> tuple[bool, Tensor | None]:
        """Return whether an option of a row of two is run, and its probability (None: 1)."""
        if row not in self.rows:
            return True, None
        return self.values is None or self.values[row][option] >= self.prune, self.rows[row][option]

    def inputs(self, row: str, names: list[str]) -> dict[str, Tensor | None]:
        """Return the predecessors that a node reads and their weights: the probability of a pair that contains them.

        ``sum_{jk} p_jk (o_j + o_k) = sum_j o_j sum_k p_jk`` (pairwise inputs of METANAS): each operation is computed once.
        """
        if row not in self.rows:
            return dict.fromkeys(names)
        pairs = pairs_of(names)
        member = [[float(name in pair) for pair in pairs] for name in names]
        weights = torch.tensor(member, dtype=self.rows[row].dtype, device=self.rows[row].device) @ self.rows[row]
        found: dict[str, Tensor | None] = dict(zip(names, weights.unbind(), strict=True))
        if self.values is not None:
            sums = [sum(p * m for p, m in zip(self.values[row], line, strict=True)) for line in member]
            top = max(sums)
            found = {name: found[name] for name, value in zip(names, sums, strict=True) if value >= self.prune or value == top}
        return found

    def levels(self, count: int) -> list[tuple[Tensor | None, Tensor | None]]:
        """Return for each level (P(it exists), P(it exists | the one above exists)); None is 1; pruned levels are missing."""
        found: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * min(count, 2)
        if self.logits is None:
            return [(None, None)] * count
        exists: Tensor | None = None
        value = 1.0
        for level in range(2, count):  # option i of the row stands for i + 2 levels
            deeper = torch.logsumexp(self.logits[level - 1 :], 0)
            given = torch.sigmoid(deeper - self.logits[level - 2])
            exists = given if exists is None else exists * given
            if self.values is not None:
                value = sum(self.values["depth"][level - 1 :])
                if value < self.prune:
                    break
            found.append((exists, given))
        return found


def softmax_rows(rows: Mapping[str, Tensor], tau: float) -> dict[str, Tensor]:
    """Return softmax(row / tau) for every row; rows of one length go through one call."""
    by_length: dict[int, list[str]] = {}
    for name, row in rows.items():
        by_length.setdefault(row.numel(), []).append(name)
    found: dict[str, Tensor] = {}
    for names in by_length.values():
        found.update(zip(names, torch.softmax(torch.stack([rows[name] for name in names]) / tau, 1).unbind(0), strict=True))
    return {name: found[name] for name in rows}


def make_choice(rows: Mapping[str, Tensor], tau: float, prune: float) -> Choice:
    """Return the choice of a forward pass; probabilities are read as numbers (one transfer) only where ``prune`` asks for it."""
    if not rows:
        return Choice()
    p = softmax_rows(rows, tau)
    values: dict[str, list[float]] | None = None
    if prune > 0:
        numbers = iter(torch.cat(list(p.values())).detach().tolist())
        values = {name: [next(numbers) for _ in range(row.numel())] for name, row in p.items()}
    return Choice(p, values, prune, rows["depth"] / tau if "depth" in rows else None)
