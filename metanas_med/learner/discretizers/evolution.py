"""Choice by evolution over networks of a supernet that single paths have trained (Guo et al. 2020, SPOS, algorithm 1)."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field

from ...space import write_genotype
from ...space.base import draw_picks, edit_picks, reason_against
from ...space.choice import Relaxed
from ...space.genotype import one_path
from ...space.network import SegmentationNet
from ..base import Context
from ..episode import Task
from .base import DiscretizerSettings, register_discretizer
from .perturbation import views_loss


class EvolutionSettings(DiscretizerSettings):
    """When the search ends, and how large the evolution is. The published one: 50 networks, 20 generations, 10 parents."""

    name: str = "evolution"
    phase: float = Field(default=0.5, ge=0, le=1)  #: share of the steps that search
    max_steps: int = Field(default=10, ge=0)  #: maximum number of search steps; 0: no limit
    population: int = Field(default=10, ge=1)  #: networks of a generation
    generations: int = Field(default=5, ge=0)  #: generations after the first, random one
    parents: int = Field(default=4, ge=1)  #: best networks so far, whose children are the next generation
    mutation: float = Field(default=0.1, ge=0, le=1)  #: probability that a mutation redraws a row


@register_discretizer(
    "evolution",
    settings=EvolutionSettings,
    source="Guo et al. 2020, SPOS, arXiv 1904.00420, algorithm 1",
    costs="population * (1 + generations) forward passes of one network on every support view",
)
class Evolution:
    """The network of the lowest loss on the support's views, with weights of the supernet; alphas play no part.

    The first generation is random. Then half of each generation are crossovers of two parents and half are mutations of one, as
    published. Children that the space does not allow are replaced by one edit of a parent. Rows of type ``sampled`` keep their first
    option: their networks have other sizes, and are compared by studies. The views are those of all support scans.
    """

    discretizes = True

    def __init__(self, settings: EvolutionSettings) -> None:
        self.settings = settings

    def search_steps(self, steps: int) -> int:
        """Return how many of ``steps`` search."""
        return min(math.ceil(self.settings.phase * steps), self.settings.max_steps or steps)

    @torch.no_grad()
    def genotype(self, net: SegmentationNet, task: Task, context: Context) -> dict[str, Any] | None:
        """Return the best architecture that was evaluated."""
        s, space, before = self.settings, net.body.space, net.body.relaxed
        draw = torch.Generator().manual_seed(int(context.generator.integers(2**62)))
        found: dict[tuple[tuple[str, int], ...], float] = {}
        try:
            children = [self._random(net, draw) for _ in range(s.population)]
            for generation in range(s.generations + 1):
                for picks in children:
                    key = tuple(picks.items())
                    if key not in found:
                        net.body.relax(Relaxed(fixed=one_path(net.body, picks)))
                        found[key] = views_loss(net, task, context)
                best = [dict(key) for key in sorted(found, key=found.__getitem__)[: s.parents]]
                if generation < s.generations:
                    children = [self._child(net, best, number, draw) for number in range(s.population)]
        finally:
            net.body.relax(before)
        return write_genotype(space, best[0])

    def _random(self, net: SegmentationNet, draw: torch.Generator) -> dict[str, int]:
        rows = net.body.space.rows()
        return {name: 0 if rows[name].type == "sampled" else option for name, option in draw_picks(net.body.space, draw).items()}

    def _child(self, net: SegmentationNet, best: list[dict[str, int]], number: int, draw: torch.Generator) -> dict[str, int]:
        """Return a crossover of two parents (even numbers) or a mutation of one."""
        space, fresh = net.body.space, self._random(net, draw)
        first, second = (best[int(torch.randint(len(best), (), generator=draw))] for _ in range(2))
        chance = torch.rand(len(fresh), generator=draw).tolist()
        if number % 2 == 0:
            child = {name: (first if p < 0.5 else second)[name] for (name, p) in zip(fresh, chance, strict=True)}
        else:
            child = {
                name: fresh[name] if p < self.settings.mutation else first[name] for (name, p) in zip(fresh, chance, strict=True)
            }
        if not reason_against(space, child):
            return child
        edits = [picks for picks in edit_picks(space, first) if self._keeps_sizes(net, picks)]
        return edits[int(torch.randint(len(edits), (), generator=draw))] if edits else fresh

    def _keeps_sizes(self, net: SegmentationNet, picks: dict[str, int]) -> bool:
        return all(picks[name] == 0 for name, row in net.body.space.rows().items() if row.type == "sampled" and name in picks)
