"""The rows of alphas, and the weights of their options in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor, nn


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return all k (k - 1) / 2 pairs of names, in the order of a pair row."""
    return list(combinations(names, 2))


class Alphas(nn.Module):
    """Rows of architecture parameters, one 1-D parameter each; calling it returns them by their names in the body."""

    def __init__(self, rows: Mapping[str, int]) -> None:
        """``rows``: the number of options of each row."""
        super().__init__()
        for name, count in rows.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(count)))

    def forward(self) -> dict[str, nn.Parameter]:
        return {f"alphas.{name}": row for name, row in self.named_parameters()}


@dataclass(frozen=True)
class Choice:
    """Weights of the options of every row; empty for a network without alphas, which then runs everything it has.

    An option is *run* if it is not left out: by ``prune``, or because ``active`` names others. What is not run costs nothing.
    """

    rows: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, list[float]] | None = None  #: the same as numbers; only where options may be left out
    prune: float = 0.0
    logits: Tensor | None = None  #: of the depth row, divided by the temperature, where the weights are a softmax
    #: the options of a row that alone are run, by a relaxation that samples paths; rows that are absent: all
    active: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    #: options among those that are run whose own weights and inputs get no gradient
    detached: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    partial: int = 1  #: K: 1/K of the channels go through a mixture, the rest passes (PC-DARTS)
    skip: float = 0.0  #: weight of an auxiliary skip that mixed edges add where a skip needs no weights (edge.add_skip)

    def pruned(self, prune: float) -> Choice:
        """Return this choice without options below ``prune``; weights are read as numbers (one transfer) only where it is above 0."""
        if prune <= 0:
            return self
        numbers = iter(torch.cat(list(self.rows.values())).detach().tolist())
        values = {name: [next(numbers) for _ in range(row.numel())] for name, row in self.rows.items()}
        return replace(self, values=values, prune=prune)

    def options(self, row: str, count: int) -> list[int]:
        """Return which of the options are run: the active ones, those at ``prune`` and above, and always the most probable one."""
        if row in self.active:
            return sorted(self.active[row])
        if self.values is None or row not in self.values:
            return list(range(count))
        p = self.values[row]
        top = p.index(max(p))
        return [index for index in range(count) if p[index] >= self.prune or index == top]

    def is_detached(self, row: str, option: int) -> bool:
        """Return whether an option is run without gradients of its own weights and inputs."""
        return option in self.detached.get(row, ())

    def on(self, row: str, option: int) -> tuple[bool, Tensor | None]:
        """Return whether an option of a row of two is run, and its probability (None: 1)."""
        if row not in self.rows:
            return True, None
        if row in self.active:
            return option in self.active[row], self.rows[row][option]
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
        if row in self.active:
            read = {name for option in self.active[row] for name in pairs[option]}
            return {name: found[name] for name in names if name in read}
        if self.values is not None:
            sums = [sum(p * m for p, m in zip(self.values[row], line, strict=True)) for line in member]
            top = max(sums)
            found = {name: found[name] for name, value in zip(names, sums, strict=True) if value >= self.prune or value == top}
        return found

    def edge_weights(self, row: str, names: Sequence[str]) -> dict[str, Tensor | None]:
        """Return the weights of the inputs ``names`` of a node: their number times the weights of the row ``row`` of edges.

        Equal weights are 1 each, so they leave the node's sum as it is. None without such a row.
        """
        if row not in self.rows:
            return dict.fromkeys(names)
        weights = self.rows[row] * len(names)
        return dict(zip(names, weights.unbind(), strict=True))

    def levels(self, count: int) -> list[tuple[Tensor | None, Tensor | None]]:
        """Return for each level (P(it exists), P(it exists | the one above exists)); None is 1; pruned levels are missing."""
        found: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * min(count, 2)
        if "depth" not in self.rows:
            return [(None, None)] * count
        exists: Tensor | None = None
        value = 1.0
        for level in range(2, count):  # option i of the row means i + 2 levels
            if "depth" in self.active and max(self.active["depth"]) < level - 1:
                break
            given = self._given(level)
            exists = given if exists is None else exists * given
            if self.values is not None and "depth" not in self.active:
                value = sum(self.values["depth"][level - 1 :])
                if value < self.prune:
                    break
            found.append((exists, given))
        return found

    def _given(self, level: int) -> Tensor:
        """Return P(``level`` exists | the one above exists)."""
        if self.logits is None:
            deeper = self.rows["depth"][level - 1 :].sum()
            return deeper / (deeper + self.rows["depth"][level - 2]).clamp(min=1e-12)
        return torch.sigmoid(torch.logsumexp(self.logits[level - 1 :], 0) - self.logits[level - 2])


def softmax_rows(rows: Mapping[str, Tensor], tau: float) -> dict[str, Tensor]:
    """Return softmax(row / tau) for every row; rows of one length go through one call."""
    by_length: dict[int, list[str]] = {}
    for name, row in rows.items():
        by_length.setdefault(row.numel(), []).append(name)
    found: dict[str, Tensor] = {}
    for names in by_length.values():
        found.update(zip(names, torch.softmax(torch.stack([rows[name] for name in names]) / tau, 1).unbind(0), strict=True))
    return {name: found[name] for name in rows}


def softmax_choice(rows: Mapping[str, Tensor], tau: float = 1.0) -> Choice:
    """Return the choice that weighs every option by softmax(row / tau)."""
    if not rows:
        return Choice()
    return Choice(softmax_rows(rows, tau), logits=rows["depth"] / tau if "depth" in rows else None)


class Relaxation(Protocol):
    """How rows of architecture parameters become weights of their options (implementations: ``learner/relaxations``).

    Optional members, for relaxations that sample:

    - ``takes: frozenset[str]``: types of rows that it can weigh (default: all that have alphas)
    - ``judge(rows, progress, generator) -> Choice``: the weights of a step that learns alphas, if they differ from ``weigh``
    - ``paths(rows, progress, generator) -> Sequence[Choice]``: several forward passes for one weight step, whose gradients are summed
    - ``after_step(rows, before, moved)``: corrects ``rows`` in place after a step of alphas that moved them from ``before``;
      ``moved``: which options had a gradient
    - ``needs_bilevel: bool``: alphas need steps of their own (default False)
    - ``moves_alphas: bool``: alphas get a gradient (default True)
    """

    def weigh(self, rows: Mapping[str, Tensor], progress: float, generator: torch.Generator | None = None) -> Choice:
        """Return the weights of every row's options at ``progress`` in [0, 1] of a search; differentiable in ``rows``.

        ``generator``: a CPU generator for the noise of a search step; None where the result must not be noisy (prediction, cost, the
        choice of an architecture).
        """
        ...


@dataclass(frozen=True)
class Relaxed:
    """The state of a soft network: how its alphas are weighed, how far its search is, and what is too improbable to run.

    The one place that holds temperature and pruning; ``Body.relax`` sets it.
    """

    relaxation: Relaxation | None = None  #: None: softmax at temperature 1
    progress: float = 0.0
    prune: float = 0.0  #: options with a smaller weight are not run; 0: all are
    generator: torch.Generator | None = None  #: only in steps of a search
    judging: bool = False  #: the step learns alphas, apart from weights
    fixed: Choice | None = None  #: weights that are given, whatever the alphas are
    adjust: Callable[[Choice, float], Choice] | None = None  #: changes a choice at a progress: regularizers of a search, masks

    def choose(self, rows: Mapping[str, Tensor]) -> Choice:
        """Return the choice of one forward pass."""
        if self.fixed is not None:
            return self._adjusted(self.fixed)
        if not rows:
            return Choice()
        judge = getattr(self.relaxation, "judge", None) if self.judging else None
        weigh = judge or (self.relaxation.weigh if self.relaxation else None)
        found = weigh(rows, self.progress, self.generator) if weigh else softmax_choice(rows)
        return self._adjusted(found).pruned(self.prune)

    def _adjusted(self, choice: Choice) -> Choice:
        return choice if self.adjust is None else self.adjust(choice, self.progress)

    def temperature(self) -> float:
        """Return the temperature now: the small difference of two alphas divided by that of the logarithms of their weights."""
        pair = torch.tensor([1e-3, 0.0], dtype=torch.float64)
        quiet = replace(self, prune=0.0, generator=None, judging=False, fixed=None, adjust=None)
        first, second = quiet.choose({"pair": pair}).rows["pair"].log().tolist()
        return float(pair[0]) / (first - second) if first > second else 1.0
