"""Which rows of alphas a search has decided, judged by how far their options lead compared with how much the lead wanders.

A row's *path* is the row at T + 1 moments of a search (steps, or iterations of a meta-training). Only its movement counts:
differences to the first moment, so a start that was committed to an option is no evidence. Over the second half of the path,
the leader is the option with the largest mean. Its *lead* over another option is the mean of the difference. The *noise* is
the standard deviation of this difference around its straight line. The options of a row can be told apart if, for every other
option, the lead is at least ``LEAST_LEAD`` and at least ``least_ratio`` times the noise.

Random walks without drift wander far, so a lead alone is no evidence. ``least_ratio`` is the ratio that 5 % of such walks
exceed. This limit does not depend on the size or the number of the steps; a test simulates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

#: smallest difference of alphas that counts: at temperature 1 it makes an option 1.1 times as probable as another
LEAST_LEAD = 0.1
#: fewest moments of a path that can decide a row
LEAST_MOMENTS = 8
#: what reports say of undecided rows
NOT_APART = "these options cannot be told apart"


def least_ratio(num_options: int) -> float:
    """Return the ratio of lead to noise that 5 % of random walks of so many options exceed (more options: fewer)."""
    return {2: 13.0, 3: 8.0}.get(num_options, 6.5)


def told_apart(path: Tensor) -> bool:
    """Return whether the options of a row can be told apart; ``path``: (T + 1, options), alphas at successive moments."""
    moments, options = path.shape
    if moments < LEAST_MOMENTS or options < 2:
        return options < 2
    moved = (path.double() - path[0].double())[moments // 2 :]
    leader = int(moved.mean(0).argmax())
    time = torch.arange(len(moved), dtype=torch.float64)
    time = time - time.mean()
    lead = moved[:, leader : leader + 1] - torch.cat([moved[:, :leader], moved[:, leader + 1 :]], 1)
    mean = lead.mean(0)
    slope = (lead * time[:, None]).sum(0) / time.square().sum()
    noise = ((lead - mean - slope * time[:, None]).square().sum(0) / (len(moved) - 2)).sqrt()
    return bool(((mean >= LEAST_LEAD) & (mean >= least_ratio(options) * noise)).all())


def undecided(paths: Mapping[str, Tensor]) -> list[str]:
    """Return the rows whose options cannot be told apart; ``paths``: (T + 1, options) by row."""
    return [name for name, path in paths.items() if not told_apart(path)]


@dataclass
class Trail:
    """The paths of all rows in bounded memory: at ``MOST`` moments every second one is dropped, and the interval doubles.

    It does not depend on the length of a run, and it survives a resume: ``to_json`` returns all of it.
    """

    MOST: ClassVar[int] = 24
    interval: int = 1  #: moments from one that is kept to the next
    count: int = 0  #: moments so far
    moments: list[dict[str, list[float]]] = field(default_factory=list)  #: the rows at each kept moment

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Note the ``rows`` of the next moment."""
        if self.count % self.interval == 0:
            # a path needs no more digits; a file of all of them would be ten times as large
            found = {name: [float(f"{x:.4g}") for x in row.detach().cpu().tolist()] for name, row in rows.items()}
            self.moments.append(found)
            if len(self.moments) > self.MOST:
                self.moments, self.interval = self.moments[::2], 2 * self.interval
        self.count += 1

    def paths(self) -> dict[str, Tensor]:
        """Return the path (moments, options) of every row."""
        names = self.moments[0] if self.moments else {}
        return {name: torch.tensor([found[name] for found in self.moments], dtype=torch.float64) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Return the trail as JSON values."""
        return {"interval": self.interval, "count": self.count, "moments": self.moments}

    @staticmethod
    def from_json(note: Mapping[str, Any]) -> Trail:
        """Return the trail of a checkpoint."""
        moments = [{name: list(row) for name, row in found.items()} for found in note["moments"]]
        return Trail(int(note["interval"]), int(note["count"]), moments)


def apart_line(rows: Sequence[str], total: int, most: int = 4) -> str:
    """Return one sentence about the rows of ``total`` whose options cannot be told apart."""
    if not rows:
        return f"alpha: the options of all {total} row(s) can be told apart"
    named = ", ".join(rows[:most]) + (f" and {len(rows) - most} more" if len(rows) > most else "")
    return f"alpha: in {len(rows)} of {total} row(s) {NOT_APART}: {named}"
