"""Evolution over clusters of architectures: the coarse stage of C2FNAS, as far as it is known here."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from ..errors import ConfigError
from ..space import SpaceSettings, get_space, read_genotype, write_genotype
from ..space.base import draw_picks, edit_picks
from ..space.genotype import hash_genotype
from .base import Candidate, StrategySettings, register_strategy


class ClusteredSettings(StrategySettings):
    """How broad the evolution is."""

    name: str = "clustered"
    first: int = Field(default=10, ge=1)  #: random proposals before the evolution, of as many clusters as possible
    parents: int = Field(default=3, ge=1)  #: best clusters, whose members have children
    within: float = Field(default=0.5, ge=0, le=1)  #: probability of a child of its parent's cluster, where a new one is found
    option: str = "conv333"  #: of rows that are not sampled; where they do not offer it, their first option
    tries: int = Field(default=200, ge=1)  #: draws in search of an architecture that was not proposed yet


@register_strategy(
    "clustered",
    settings=ClusteredSettings,
    source="after the coarse stage of C2FNAS (Yu et al. 2020, arXiv 1912.09628), whose details could not be read",
    refuses="spaces without clusters",
)
class ClusteredEvolution:
    """Sampled rows by evolution: the best members of the best clusters have children, none of them twice.

    A cluster is what ``space.cluster(picks)`` says: for C2FNAS the numbers of cells of the levels. Its score is that of its best member.
    First come random architectures, of clusters that were not seen where there are any. Then each child is a new member of its parent's
    cluster, or one edit away from its parent. All rows but the sampled ones keep ``option``. From the paper is that topologies are
    clustered by cells a level and found by evolution; numbers and the kinds of children are ours.
    """

    def __init__(self, settings: ClusteredSettings, space: SpaceSettings) -> None:
        self.settings, self.space = settings, get_space(space)
        self._cluster = getattr(self.space, "cluster", None)
        if self._cluster is None:
            raise ConfigError(f"strategy clustered: the space {space.name} has no clusters; expected one such as c2fnas")
        self.scores: dict[str, tuple[int, float]] = {}  #: name -> budget and score
        self._proposed: dict[str, dict[str, Any]] = {}  #: name -> genotype

    def ask(self, generator: torch.Generator) -> Candidate:
        """Return a new architecture; ConfigError where ``tries`` draws give none."""
        best = self._best()
        for turn in range(self.settings.tries):
            if len(self._proposed) < self.settings.first or not best:
                picks = self._random(generator)
                wanted = turn >= self.settings.tries // 2 or self._cluster(picks) not in self._seen()  # type: ignore[misc]
            else:
                picks, wanted = self._child(best, generator), True
            found = write_genotype(self.space, picks)
            if wanted and (name := hash_genotype(found)) not in self._proposed:
                self._proposed[name] = found
                return Candidate(found, name=name)
        raise ConfigError(
            f"no new architecture in {self.settings.tries} draws; {len(self._proposed)} were proposed. Is the space this small?"
        )

    def tell(self, candidate: Candidate, score: float, budget: int) -> None:
        """Keep the score of the largest budget."""
        if budget >= self.scores.get(candidate.name, (0, 0.0))[0]:
            self.scores[candidate.name] = (budget, score)

    def state(self) -> dict[str, Any]:
        """Return what was proposed and scored, as JSON values."""
        return {"proposed": dict(self._proposed), "scores": {name: list(value) for name, value in self.scores.items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self._proposed = dict(state["proposed"])
        self.scores = {name: (int(budget), float(score)) for name, (budget, score) in state["scores"].items()}

    def _picks(self, name: str) -> dict[str, int]:
        return read_genotype(self._proposed[name])[1]

    def _seen(self) -> set[str]:
        return {self._cluster(self._picks(name)) for name in self._proposed}  # type: ignore[misc]

    def _best(self) -> list[dict[str, int]]:
        """Return the best member of each of the best clusters; scores of the largest budget alone are compared."""
        most = max((budget for budget, _ in self.scores.values()), default=0)
        found: dict[str, dict[str, int]] = {}
        for name in sorted(self.scores, key=lambda name: self.scores[name][1], reverse=True):
            if self.scores[name][0] == most and name in self._proposed:
                picks = self._picks(name)
                found.setdefault(self._cluster(picks), picks)  # type: ignore[misc]
        return list(found.values())[: self.settings.parents]

    def _random(self, generator: torch.Generator) -> dict[str, int]:
        return self._fixed(draw_picks(self.space, generator))

    def _fixed(self, picks: dict[str, int]) -> dict[str, int]:
        """Return ``picks`` with the setting's option in every row that is not sampled."""
        rows, own = self.space.rows(), self.settings.option
        return {
            name: option if rows[name].type == "sampled" else rows[name].options.index(own) if own in rows[name].options else 0
            for name, option in picks.items()
        }

    def _child(self, best: list[dict[str, int]], generator: torch.Generator) -> dict[str, int]:
        parent = best[int(torch.randint(len(best), (), generator=generator))]
        if float(torch.rand((), generator=generator)) < self.settings.within:
            for _ in range(20):
                picks = self._random(generator)
                if self._cluster(picks) == self._cluster(parent) and picks != parent:  # type: ignore[misc]
                    return picks
        rows = self.space.rows()
        near = [
            picks
            for picks in edit_picks(self.space, parent)
            if all(picks[name] == option for name, option in parent.items() if rows[name].type != "sampled")
        ]
        return near[int(torch.randint(len(near), (), generator=generator))] if near else self._random(generator)
