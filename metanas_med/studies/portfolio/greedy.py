"""A portfolio: the default, then what raises the best of the portfolio most, one configuration after another.

After Hydra and Auto-sklearn 2 (Xu et al. 2010; Feurer et al. 2022, arXiv 2007.04074, section 3.2), with two runs of every cell: the
best of a portfolio is chosen by one run and valued by the other, so that noise does not pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...search.choice import best_in_hindsight
from ..choose.table import Array, Interval, Table, over_tasks

#: a configuration that raises the mean by less is not added
LEAST_GAIN = 0.001


@dataclass(frozen=True)
class Portfolio:
    """Numbers of configurations in order, the default (0) first, and what each of them added to the mean over data sets."""

    members: tuple[int, ...]
    added: tuple[float, ...]


def best_of(table: Table, members: Sequence[int]) -> Array:
    """Return the Dice (tasks,) of the best of the portfolio: chosen by one run, valued by the other, both ways, and averaged."""
    columns = list(members)
    return best_in_hindsight(table.first[:, columns], table.second[:, columns])


def greedy(table: Table, size: int, least: float = LEAST_GAIN) -> Portfolio:
    """Return a portfolio of at most ``size``; of equal gains the configuration that comes first is added."""
    members, added = [0], [0.0]
    value = _mean(table, best_of(table, members))
    while len(members) < size:
        left = [c for c in range(len(table.configurations)) if c not in members]
        values = {c: _mean(table, best_of(table, [*members, c])) for c in left}
        best = max(left, key=lambda c: values[c], default=None)
        if best is None or values[best] - value < least:
            break
        members.append(best)
        added.append(values[best] - value)
        value = values[best]
    return Portfolio(tuple(members), tuple(added))


@dataclass(frozen=True)
class LeftOut:
    """The portfolio of the other data sets, and its gain over the default on the one that was left out."""

    dataset: str
    portfolio: Portfolio
    gain: float


def leave_one_out(table: Table, size: int) -> tuple[list[LeftOut], Array]:
    """Return the portfolios that leave one data set out, and the gains (tasks,) over the default on what was left out."""
    gains, found = np.full(len(table.tasks), np.nan), []
    for dataset, members in zip(table.datasets, table.members, strict=True):
        made = greedy(table.without(dataset), size)
        gains[members] = (best_of(table, made.members) - table.dice[:, 0])[members]
        found.append(LeftOut(dataset, made, float(gains[members].mean())))
    return found, gains


def worth_by_size(table: Table, size: int) -> list[Interval]:
    """Return the gain over the default on left-out data sets, for portfolios of 2 to ``size`` configurations."""
    return [over_tasks(table, leave_one_out(table, number)[1]) for number in range(2, size + 1)]


def _mean(table: Table, values: Array) -> float:
    """Return the mean over data sets of ``values`` (tasks,)."""
    return float(np.mean([values[members].mean() for members in table.members]))
