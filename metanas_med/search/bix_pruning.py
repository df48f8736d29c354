"""Backward evolutionary pruning of gates, stage by stage: the second phase of BiX-NAS (arXiv 2106.14033, section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from pydantic import Field

from ..errors import ConfigError, suggest
from ..space import SpaceSettings, genotype_multiply_adds, get_space, hash_genotype, read_genotype, write_genotype
from ..space.base import Picks, SearchSpace, reason_against
from ..space.sketch import complete_picks
from .base import Candidate, StrategySettings, register_strategy

Extent = Annotated[int, Field(ge=1)]


class BixPruningSettings(StrategySettings):
    """Pruning of gates from the last stage to the first."""

    name: str = "bix_pruning"
    samples: int = Field(default=15, ge=1)  #: networks drawn from each one that was kept
    keep: int = Field(default=2, ge=1)  #: networks kept after each stage; the paper keeps 2 or 3
    start: Mapping[str, str] = Field(default_factory=dict)  #: row -> option to start from; rows left out start open
    shut: tuple[str, ...] = ("off", "none", "plain")  #: options of gates that leave something out
    shape: tuple[Extent, Extent, Extent] = (32, 32, 32)  #: voxels (X, Y, Z) that multiply-adds are counted for
    strides: tuple[tuple[Extent, Extent, Extent], ...] = ()  #: between levels; empty: 2 along every axis
    tries: int = Field(default=100, ge=1)  #: draws in a row that give no new and legal network, after which a stage has fewer


@dataclass
class Drawn:
    """A network of one stage; ``score`` is None until it is known."""

    genotype: dict[str, Any]
    multiply_adds: int
    score: float | None = None
    budget: int = 0
    asked: bool = False


@register_strategy(
    "bix_pruning",
    settings=BixPruningSettings,
    source="Wang et al. 2021, arXiv 2106.14033",
    refuses="spaces without gates",
)
class BixPruning:
    """Shuts gates of the last stage first, then of the one before, and keeps what is best in score and multiply-adds.

    A stage is all gates whose names have the same first part (``enc1/...``); stages run in the order of the space's rows. In each
    stage, networks are drawn from every kept one: each of its open gates of this stage stays open with probability 1/2. When all are
    scored, the best of the Pareto front in (1 - score, multiply-adds) are kept, those of higher scores first, then those of the next
    front. After the first stage, ``ask`` returns the best network again and ``done`` is true.
    """

    def __init__(self, settings: BixPruningSettings, space: SpaceSettings) -> None:
        self.settings, self.space = settings, space
        found = get_space(space)
        self.stages = _stages(found)
        if not self.stages:
            raise ConfigError(f"bix_pruning shuts gates, and space {space.name!r} has none: choose another strategy or space")
        self.at = 0  #: number of stages that are finished
        self.kept: list[Drawn] = [self._drawn(found, _start(found, settings.start, settings.shut))]
        self.drawn: dict[str, Drawn] = {}

    @property
    def done(self) -> bool:
        """Whether all stages are finished."""
        return self.at == len(self.stages)

    @property
    def best(self) -> dict[str, Any]:
        """The genotype of the best network that is kept so far."""
        return self.kept[0].genotype

    def ask(self, generator: torch.Generator) -> Candidate:
        """Return the next network of this stage; one without a score again, where all were asked for; the best one at the end."""
        if self.done:
            return Candidate(self.best, name=hash_genotype(self.best))
        if not self.drawn:
            self._draw(generator)
        waiting = {name: drawn for name, drawn in self.drawn.items() if drawn.score is None}
        name = next((name for name, drawn in waiting.items() if not drawn.asked), next(iter(waiting)))
        self.drawn[name].asked = True
        return Candidate(self.drawn[name].genotype, name=name)

    def tell(self, candidate: Candidate, score: float, budget: int) -> None:
        """Keep the score of the largest budget; the stage ends with its last score. Networks of other stages change nothing."""
        found = self.drawn.get(candidate.name)
        if found is None or (found.score is not None and budget < found.budget):
            return
        found.score, found.budget = score, budget
        if all(drawn.score is not None for drawn in self.drawn.values()):
            self.kept = _select(list(self.drawn.values()), self.settings.keep)
            self.drawn, self.at = {}, self.at + 1

    def state(self) -> dict[str, Any]:
        """Return what was kept, drawn and scored, as JSON values."""
        return {
            "at": self.at,
            "kept": [asdict(drawn) for drawn in self.kept],
            "drawn": {name: asdict(drawn) for name, drawn in self.drawn.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self.at = int(state["at"])
        self.kept = [Drawn(**drawn) for drawn in state["kept"]]
        self.drawn = {name: Drawn(**drawn) for name, drawn in state["drawn"].items()}

    def _drawn(self, space: SearchSpace, picks: Picks) -> Drawn:
        s, levels = self.settings, self.space.levels
        strides = s.strides or ((2, 2, 2),) * (levels - 1)
        genotype = write_genotype(space, picks)
        return Drawn(genotype, genotype_multiply_adds(genotype, s.shape, strides))

    def _draw(self, generator: torch.Generator) -> None:
        """Draw this stage's networks: up to ``samples`` new ones from each that is kept."""
        space, s = get_space(self.space), self.settings
        rows, gates = space.rows(), self.stages[len(self.stages) - 1 - self.at]
        for parent in self.kept:
            picks, found, missed = complete_picks(space, read_genotype(parent.genotype)[1]), 0, 0
            seen: set[tuple[int, ...]] = set()
            while found < s.samples and missed < s.tries:
                child = {row: _pruned(rows[row].options, picks[row], s.shut, generator) for row in gates}
                new, legal = tuple(child.values()) not in seen, not reason_against(space, {**picks, **child})
                seen.add(tuple(child.values()))
                drawn = self._drawn(space, {**picks, **child}) if new and legal else None
                name = hash_genotype(drawn.genotype) if drawn else ""
                if drawn is None or name in self.drawn:
                    missed += 1
                    continue
                self.drawn[name] = drawn
                found, missed = found + 1, 0


def dominates(one: Drawn, other: Drawn) -> bool:
    """Return whether ``one`` is at least as good as ``other`` in score and multiply-adds, and better in one of them."""
    assert one.score is not None and other.score is not None
    return (
        one.score >= other.score
        and one.multiply_adds <= other.multiply_adds
        and (one.score > other.score or one.multiply_adds < other.multiply_adds)
    )


def _select(every: Sequence[Drawn], keep: int) -> list[Drawn]:
    """Return ``keep`` networks, front by front, those with higher scores first."""
    left, found = list(every), list[Drawn]()
    while left and len(found) < keep:
        front = [one for one in left if not any(dominates(other, one) for other in left)]
        found += sorted(front, key=lambda one: (-(one.score or 0.0), one.multiply_adds))
        left = [one for one in left if one not in front]
    return found[:keep]


def _stages(space: SearchSpace) -> list[list[str]]:
    """Return the names of the gates of every stage that has some, in the order of the rows."""
    found: dict[str, list[str]] = {}
    for name, row in space.rows().items():
        if row.type == "gate":
            found.setdefault(name.partition("/")[0], []).append(name)
    return list(found.values())


def _start(space: SearchSpace, given: Mapping[str, str], shut: Sequence[str]) -> dict[str, int]:
    """Return the picks ``given``, with every other gate open and the first option of every other row."""
    rows = space.rows()
    for name, option in given.items():
        if name not in rows:
            raise ConfigError(f"bix_pruning: start has an unknown row {name!r}; {suggest(name, rows)}")
        if option not in rows[name].options:
            raise ConfigError(f"bix_pruning: start has {name} = {option!r}; {suggest(option, rows[name].options)}")
    picks = {}
    for name, row in rows.items():
        opened = next((option for option in row.options if option not in shut), row.options[0])
        picks[name] = row.options.index(given.get(name, opened if row.type == "gate" else row.options[0]))
    if reason := reason_against(space, picks):
        raise ConfigError(f"bix_pruning cannot start there: {reason}. Name the open gates in start, such as those of a search")
    return picks


def _pruned(options: Sequence[str], option: int, shut: Sequence[str], generator: torch.Generator) -> int:
    """Return the option of an open gate that was left open or shut with probability 1/2; that of a shut gate stays."""
    closed = next((place for place, name in enumerate(options) if name in shut), option)
    leave = options[option] in shut or bool(torch.randint(2, (), generator=generator))
    return option if leave else closed
