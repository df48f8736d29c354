"""Successive halving on folds: how many candidates, for how long, which go on, and which wins.

After Jamieson and Talwalkar 2016, arXiv 1502.07943, section 3: every round has the same time, and one of ``eta`` candidates goes on
to the next. The default goes through all rounds, because the others are compared with it, scan by scan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .budget import Cost
from .settings import MinutesSettings

#: Dice by scan and organ
Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Layout:
    """How the time for comparisons is divided. ``sizes``: number of candidates by round; empty: nothing is compared."""

    sizes: tuple[int, ...] = ()
    seconds: float = 0.0  #: of all rounds
    workers: int = 1
    averages: bool = False  #: averages of several fits are tried after the last round
    why_not: str = ""

    def fit_seconds(self, seconds: float, num_fits: int) -> float:
        """Return the seconds of each of ``num_fits`` fits that share ``seconds`` of the machine."""
        return seconds / math.ceil(num_fits / self.workers)


def sizes_of(number: int, eta: int) -> tuple[int, ...]:
    """Return the numbers of candidates by round: ``number`` first, one of ``eta`` goes on, until at most ``eta`` are left."""
    sizes = [number]
    while sizes[-1] > eta:
        sizes.append(max(2, math.ceil(sizes[-1] / eta)))
    return tuple(sizes)


def lay_out(
    left: float, cost: Cost, num_candidates: int, num_folds: int, num_left: float, workers: int, s: MinutesSettings
) -> Layout:
    """Return how ``left`` seconds are divided for up to ``num_candidates``, with the ``cost`` of the default on all threads.

    ``num_left``: scans that a fit predicts. A fit of one worker is assumed to take ``workers`` times as long as one on all threads,
    so a machine is never expected to gain by processes.
    """
    steps = cost.steps_in(left)
    if steps < s.least_estimate_steps:
        return Layout(why_not=f"the time is enough for {max(steps, 0)} steps, comparisons start at {s.least_estimate_steps}")
    own = cost.scaled(workers)
    shortest = own.plan + own.head + num_left * own.predict + s.least_fit_steps * own.step
    enough = steps >= s.least_search_steps
    for number in range(min(num_candidates, s.max_candidates) if enough else 1, 0, -1):
        sizes = sizes_of(number, s.eta)
        seconds = (s.search_share if number > 1 else s.estimate_share) * left
        layout = Layout(sizes, seconds, workers)
        averages = enough and s.members > 1
        share = _of_rounds(layout, averages)
        if layout.fit_seconds(share * seconds / len(sizes), number * num_folds) >= shortest:
            return Layout(sizes, seconds, workers, averages, "" if enough or num_candidates == 1 else _too_short(steps, s))
    return Layout(why_not="the time is too short for a fit on each fold")


def _of_rounds(layout: Layout, averages: bool) -> float:
    """Return the share of the rounds where averages are tried as well: as long as one candidate of the last round."""
    return 1 / (1 + 1 / (len(layout.sizes) * layout.sizes[-1])) if averages else 1.0


def rounds_seconds(layout: Layout) -> float:
    """Return the seconds of each round of a layout."""
    return _of_rounds(layout, layout.averages) * layout.seconds / max(len(layout.sizes), 1)


def _too_short(steps: int, s: MinutesSettings) -> str:
    return f"the time is enough for {steps} steps, candidates are compared from {s.least_search_steps}"


def by_scan(scores: Sequence[Scores]) -> dict[str, dict[str, float]]:
    """Return the mean Dice by scan and organ over the fits (folds and repeats) that scored the scan."""
    values: dict[str, dict[str, list[float]]] = {}
    for each in scores:
        for scan, organs in each.items():
            for organ, value in organs.items():
                values.setdefault(scan, {}).setdefault(organ, []).append(value)
    return {scan: {o: sum(v) / len(v) for o, v in organs.items()} for scan, organs in values.items()}


def differences(one: Scores, other: Scores) -> list[float]:
    """Return the mean over organs of ``one`` minus ``other`` for each scan, over what both scored."""
    found = []
    for scan in sorted(one.keys() & other.keys()):
        organs = sorted(one[scan].keys() & other[scan].keys())
        if organs:
            found.append(sum(one[scan][o] - other[scan][o] for o in organs) / len(organs))
    return found


def mean_of(scores: Scores) -> float:
    """Return the mean over scans of the mean over organs; nan without a score."""
    scans = [sum(organs.values()) / len(organs) for organs in scores.values() if organs]
    return sum(scans) / len(scans) if scans else math.nan


def survivors(scores: Mapping[str, Scores], default: str, number: int) -> list[str]:
    """Return the ``number`` names that go on: the default, and those with the highest means, in the order of ``scores``."""
    others = sorted((name for name in scores if name != default), key=lambda name: -mean_of(scores[name]))
    kept = {default, *others[: number - 1]}
    return [name for name in scores if name in kept]
