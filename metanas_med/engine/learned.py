"""What a meta-training learned of its alphas before the commitment, which replaces them by a choice with a fixed lead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..learner.evidence import Trail, apart_line, undecided

_PREFIX = "body.alphas."


@dataclass(frozen=True)
class Learned:
    """Alphas by row (names of ``Body.rows``), and the rows whose options could not be told apart.

    ``iteration``: how many iterations had moved them. A state without a commitment has none of this: its own alphas are those
    that were learned.
    """

    alphas: Mapping[str, list[float]]
    undecided: tuple[str, ...]
    iteration: int

    @staticmethod
    def of(alphas: Mapping[str, torch.Tensor], trail: Trail, iteration: int) -> Learned:
        """Return what the alphas of a state and their path say; ``alphas`` have the names of a network."""
        rows = without_prefix(alphas)
        paths = trail.paths()
        unknown = [name for name in rows if name not in paths]
        return Learned(
            {name: row.detach().cpu().tolist() for name, row in rows.items()},
            tuple(sorted([*undecided({name: paths[name] for name in rows if name in paths}), *unknown])),
            iteration,
        )

    def probabilities(self) -> dict[str, list[float]]:
        """Return the softmax of every row at temperature 1."""
        return {name: torch.tensor(row, dtype=torch.float64).softmax(0).tolist() for name, row in self.alphas.items()}

    @property
    def sentence(self) -> str:
        """Return one sentence about the rows whose options cannot be told apart; empty without rows."""
        if not self.alphas:
            return ""
        if not any(len(set(row)) > 1 for row in self.alphas.values()):
            return "alpha: nothing was learned before the commitment; every row takes its first option"
        return apart_line(self.undecided, len(self.alphas))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; float32 numbers survive them exactly."""
        return {"alphas": dict(self.alphas), "undecided": list(self.undecided), "iteration": self.iteration}

    @staticmethod
    def of_note(note: Mapping[str, Any], alphas: Mapping[str, torch.Tensor]) -> Learned | None:
        """Return what the note of a state says; ``alphas`` are those of the state. None for an older state."""
        if "learned" in note:
            return Learned.from_json(note["learned"])
        return Learned.of(alphas, Trail.from_json(note["trail"]), int(note["iteration"])) if "trail" in note else None

    @staticmethod
    def from_json(note: Mapping[str, Any]) -> Learned:
        """Return what ``to_json`` gave."""
        alphas = {str(name): [float(x) for x in row] for name, row in note["alphas"].items()}
        return Learned(alphas, tuple(map(str, note["undecided"])), int(note["iteration"]))


def without_prefix(alphas: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the alphas of a network by the names of ``Body.rows``."""
    return {name.removeprefix(_PREFIX): row for name, row in alphas.items()}
