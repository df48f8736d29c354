"""Random search: the baseline that every strategy has to beat (Li and Talwalkar 2019, arXiv 1902.07638)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from ..errors import ConfigError
from ..space import SpaceSettings, hash_genotype, random_genotype
from .base import Candidate, StrategySettings, register_strategy


class RandomSettings(StrategySettings):
    """Uniform draws."""

    name: str = "random"
    tries: int = Field(default=1000, ge=1)  #: draws in search of an architecture that was not proposed yet


@register_strategy("random", settings=RandomSettings, source="Li and Talwalkar 2019, arXiv 1902.07638")
class RandomSearch:
    """Architectures drawn uniformly, row by row, none of them twice."""

    def __init__(self, settings: RandomSettings, space: SpaceSettings) -> None:
        self.settings, self.space = settings, space
        self.scores: dict[str, tuple[int, float]] = {}  #: name -> budget and score
        self._seen: set[str] = set()

    def ask(self, generator: torch.Generator) -> Candidate:
        """Return a new architecture; ConfigError where ``tries`` draws give none."""
        for _ in range(self.settings.tries):
            genotype = random_genotype(self.space, generator)
            if (name := hash_genotype(genotype)) not in self._seen:
                self._seen.add(name)
                return Candidate(genotype, name=name)
        raise ConfigError(
            f"no new architecture in {self.settings.tries} draws; {len(self._seen)} were proposed. Is the space this small?"
        )

    def tell(self, candidate: Candidate, score: float, budget: int) -> None:
        """Keep the score of the largest budget."""
        if budget >= self.scores.get(candidate.name, (0, 0.0))[0]:
            self.scores[candidate.name] = (budget, score)

    def state(self) -> dict[str, Any]:
        """Return what was proposed and scored, as JSON values."""
        return {"seen": sorted(self._seen), "scores": {name: list(value) for name, value in self.scores.items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self._seen = set(state["seen"])
        self.scores = {name: (int(budget), float(score)) for name, (budget, score) in state["scores"].items()}
