"""What Dice to expect on new scans, from scans that were left out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from scipy.special import stdtrit

from .halving import Scores, mean_of

#: of the interval
LEVEL = 0.95


@dataclass(frozen=True)
class Expected:
    """The Dice to expect on new scans, with an interval; ``dice`` None: unknown, and ``words`` say why."""

    dice: float | None = None
    low: float | None = None
    high: float | None = None
    num_scans: int = 0
    by_organ: dict[str, float] | None = None
    weak: bool = False
    words: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def holds(self, dice: float) -> bool:
        """Return whether ``dice`` is in the interval."""
        return self.low is not None and self.high is not None and self.low <= dice <= self.high


def expect(scores: Scores, num_train: int, num_support: int, weak: bool) -> Expected:
    """Return the mean Dice of left-out scans and Student's t interval of 95 % over them, clipped to [0, 1].

    The mean is that of models of fewer scans and less time than the final one; it is not corrected for that. One scan, or ``weak``
    scores of copies, give no interval: nothing says how scans differ.
    """
    means = {scan: sum(organs.values()) / len(organs) for scan, organs in scores.items() if organs}
    if not means:
        return Expected(words="no scan was left out")
    mean, number = mean_of(scores), len(means)
    organs = sorted({organ for each in scores.values() for organ in each})
    found = {o: [each[o] for each in scores.values() if o in each] for o in organs}
    by_organ = {o: sum(v) / len(v) for o, v in found.items()}
    if weak or number < 2:
        words = (
            "weak: measured on transformed copies of the same scans, so it is too high; nothing is known about other patients"
            if weak
            else "weak: a single scan was left out"
        )
        return Expected(mean, None, None, number, by_organ, True, words)
    spread = math.sqrt(sum((value - mean) ** 2 for value in means.values()) / (number - 1))
    half = float(stdtrit(number - 1, (1 + LEVEL) / 2)) * spread / math.sqrt(number)
    words = (
        f"cross-validated on {number} support scans, each left out once; the models of the folds had {num_train} of {num_support} "
        "scans and less time, so the final one is usually better; this is not corrected"
    )
    return Expected(mean, max(mean - half, 0.0), min(mean + half, 1.0), number, by_organ, False, words)
