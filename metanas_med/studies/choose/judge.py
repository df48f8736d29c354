"""What a choice by a score gains and loses, in comparison with the default, a random choice and the best in hindsight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...report.correlation import spearman
from ...search.belief import belief_of
from ...search.choice import Lead, chosen_value, one_standard_error
from .table import SECONDS, Array, Interval, Table, over_tasks

PRIOR = "other data sets"
#: the score of a choice by the Dice of left-out scans that keeps the default unless another leads by one standard error
CAREFUL = "folds, one standard error"
#: the score of a choice by what the other data sets said and, weighted by their precision, the Dice of left-out scans
BELIEF = "folds, belief"


@dataclass(frozen=True)
class Judged:
    """A way of choosing: rank correlation with query Dice, gain over the default, regret, seconds of a configuration."""

    name: str
    rank: Interval | None
    gain: Interval
    regret: Interval
    seconds: float | None = None


def ways_of(table: Table) -> dict[str, Array]:
    """Return the scores (tasks, configurations) of every way of choosing by a score, by name; higher is better."""
    ways = dict(table.scores)
    for name in ("multiply_adds", "parameters"):
        ways.setdefault(name, table.columns[name])
    if len(table.datasets) > 1:
        prior = prior_of(table)
        ways[PRIOR] = prior
        ways |= {f"{name}, with {PRIOR}": combined(values, prior) for name, values in table.scores.items()}
    if table.scans:
        ways[CAREFUL] = careful(table)
        if len(table.datasets) > 2:
            ways[BELIEF] = believed(table)
    return ways


def judge(table: Table) -> list[Judged]:
    """Return all ways of choosing, the smallest regret first; then the default, a random choice, and the best in hindsight."""
    dice, default, best = table.dice, table.dice[:, 0], table.best
    found = []
    for name, scores in ways_of(table).items():
        value = chosen_value(dice, scores)
        # tied choices, such as those of the rule of one standard error, give no order
        rank = None if name == CAREFUL else over_tasks(table, _ranks(scores, dice))
        seconds = table.columns.get(f"{SECONDS}{name}")
        cost = None if seconds is None else float(np.nanmean(seconds))
        found.append(Judged(name, rank, over_tasks(table, value - default), over_tasks(table, best - value), cost))
    found.sort(key=lambda each: each.regret.mean)
    for name, value in (("the default", default), ("a random choice", dice.mean(1)), ("the best in hindsight", best)):
        found.append(Judged(name, None, over_tasks(table, value - default), over_tasks(table, best - value)))
    return found


def prior_of(table: Table) -> Array:
    """Return what the other data sets say of a configuration (tasks, configurations): its mean standardised gain there.

    A gain is Dice minus that of the default, over the standard deviation of Dice over configurations of the same task. Draws are
    averaged within a data set, then data sets.
    """
    spread = np.maximum(table.dice.std(1, keepdims=True), 1e-6)
    by_dataset = np.array([(table.gains / spread)[members].mean(0) for members in table.members])
    prior = np.zeros_like(table.dice)
    for number, members in enumerate(table.members):
        prior[members] = np.delete(by_dataset, number, axis=0).mean(0)
    return prior


def combined(scores: Array, prior: Array) -> Array:
    """Return the sum of both (tasks, configurations), each standardised over the configurations of a task."""
    return _standard(scores) + _standard(prior)


def careful(table: Table) -> Array:
    """Return 1 for the choice of each task, else 0: the best by ``folds`` if it leads the default by one standard error over scans."""
    choice = np.zeros_like(table.dice)
    for task in range(len(table.tasks)):
        scans = {c: table.scans[task, c] for c in range(len(table.configurations)) if (task, c) in table.scans}
        best = max(scans, key=lambda c: (float(np.mean(scans[c])), -c), default=0)
        leads = 0 in scans and best and one_standard_error(np.subtract(scans[best], scans[0])).leads
        choice[task, best if leads else 0] = 1.0
    return choice


def believed(table: Table) -> Array:
    """Return the posterior mean gain (tasks, configurations): a normal prior from the other data sets, then the left-out scans."""
    by_dataset = np.array([table.gains[members].mean(0) for members in table.members])
    found = np.zeros_like(table.dice)
    for number, members in enumerate(table.members):
        prior = belief_of([*np.delete(by_dataset, number, axis=0)])
        for task in members:
            leads = [_lead(table, int(task), c) for c in range(len(table.configurations))]
            found[task] = prior.measured([lead.mean for lead in leads], [lead.se**2 for lead in leads]).mean
    return found


def _lead(table: Table, task: int, configuration: int) -> Lead:
    """Return the lead over the default on left-out scans; nan and infinitely uncertain without them."""
    own, default = table.scans.get((task, configuration)), table.scans.get((task, 0))
    if own is None or default is None:
        return Lead(float("nan"), float("inf"), False)
    return one_standard_error(np.subtract(own, default))


def by_configuration(table: Table) -> list[Mapping[str, object]]:
    """Return a row a configuration: its gain over the default by data set, its mean, and the time of a step."""
    rows = []
    for number, name in enumerate(table.configurations):
        gains = table.gains[:, number]
        row: dict[str, object] = {"configuration": name, "gain": over_tasks(table, gains).text() if number else ""}
        means = {dataset: gains[members].mean() for dataset, members in zip(table.datasets, table.members, strict=True)}
        default = {d: f"{table.dice[m, 0].mean():.3f}" for d, m in zip(table.datasets, table.members, strict=True)}
        row |= {dataset: f"{mean:+.3f}" if number else default[dataset] for dataset, mean in means.items()}
        rows.append(row | {"time of a step": f"{table.relative_seconds[number]:.2f}"})
    return rows


def _ranks(scores: Array, dice: Array) -> Array:
    """Return Spearman's correlation within each task, over the configurations that have a score; nan where undefined."""
    known = ~np.isnan(scores)
    return np.array([float(spearman(s[k], d[k])) for s, d, k in zip(scores, dice, known, strict=True)])


def _standard(scores: Array) -> Array:
    mean, spread = np.nanmean(scores, 1, keepdims=True), np.nanstd(scores, 1, keepdims=True)
    return (scores - mean) / np.maximum(spread, 1e-12)
