"""The grid: which method adapts to which organ, from how many scans, for how many steps; what is done and how long the rest takes.

A cell is one adaptation with the scores of its query cases, and one JSON file, written when it is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...config import BenchmarkGroup, BenchmarkSettings
from ...errors import ConfigError
from .methods import method_named

#: steps of the search that budgets of time go by
REFERENCE_STEPS = 20


@dataclass(frozen=True)
class Cell:
    """One adaptation. ``target``: "all" labels of the data set at once, or one of them by itself."""

    group: str
    dataset: str
    target: str
    method: str
    shots: int
    steps: int  #: of a method with a budget of time: those of the search, as it is compared to that
    draw: int
    seed: int

    @property
    def name(self) -> str:
        """Return a name that no other cell of the grid has, fit for a file."""
        counts = (f"{self.shots}shot", f"{self.steps}step", f"draw{self.draw}", f"seed{self.seed}")
        parts = (self.group, self.dataset, self.target, self.method, *counts)
        return "-".join(parts).replace(" ", "_").replace("/", "_")

    @property
    def file(self) -> str:
        return f"{self.name}.json"

    @property
    def pretraining(self) -> tuple[str, str, int] | None:
        """Return group, kind and seed of the meta-training that the cell starts from; None for fresh weights."""
        kind = method_named(self.method).pretraining
        return (self.group, kind, self.seed) if kind else None

    @property
    def reference(self) -> Cell | None:
        """Return the search by whose time a budget goes; None where the steps are given."""
        if not method_named(self.method).budget:
            return None
        return Cell(self.group, self.dataset, self.target, "metanas", self.shots, REFERENCE_STEPS, self.draw, 0)


def grid(settings: BenchmarkSettings) -> list[Cell]:
    """Return every cell of the settings, those that the claim rests on first; ConfigError for an unknown method."""
    cells = {cell for group in settings.groups for cell in _cells(settings, group)}
    cells |= {cell.reference for cell in cells if cell.reference}
    if not cells:
        raise ConfigError("the benchmark names no method or no group; see the shipped configuration")
    order = {method: place for place, method in enumerate(settings.methods)}
    shots = {number: place for place, number in enumerate(settings.shots)}

    def key(c: Cell) -> tuple:
        # by draw, so that a grid that stops early is balanced; a search before the budgets that go by its time
        first = (c.draw, shots[c.shots], c.steps != REFERENCE_STEPS, c.seed, c.reference is not None)
        return (*first, order.get(c.method, 0), c.target != "all", c.name)

    return sorted(cells, key=key)


def _cells(settings: BenchmarkSettings, group: BenchmarkGroup) -> Iterator[Cell]:
    first = next((g.name for g in settings.groups if not g.development), None)
    for data in group.data:
        for name in settings.methods:
            method = method_named(name)
            if method.one_group and group.name != first:
                continue
            targets = ("all", *data.organs) if name in settings.each_organ else ("all",)
            steps = (*settings.steps, *settings.curve_steps)
            if method.time:
                steps = (REFERENCE_STEPS,)
            elif not method.search:
                steps = (*steps, *settings.matched_steps)
            for target in targets:
                for shots in settings.shots:
                    if method.only_shots and shots not in method.only_shots:
                        continue
                    for number in dict.fromkeys(steps):
                        for draw in range(1 if method.one_draw else settings.draws):
                            for seed in range(settings.seeds if method.several_seeds else 1):
                                yield Cell(group.name, data.dataset, target, name, shots, number, draw, seed)


def chosen(settings: BenchmarkSettings) -> list[Cell]:
    """Return the cells that ``settings.only`` names (all by default) and what their budgets go by; ConfigError for none."""
    everything = grid(settings)
    found = {cell for cell in everything if settings.only in cell.name}
    if not found:
        raise ConfigError(f"only: no cell's name holds {settings.only!r}; a name is such as {everything[0].name!r}")
    found |= {cell.reference for cell in found if cell.reference}
    return [cell for cell in everything if cell in found]


def num_scored(settings: BenchmarkSettings, cell: Cell) -> int:
    """Return how many query cases a cell is scored on."""
    return settings.curve_query if cell.steps in settings.curve_steps else settings.num_query


def predicted_hours(
    settings: BenchmarkSettings, cells: Sequence[Cell], trained: set, seconds: Mapping[tuple[str, int], float]
) -> float:
    """Return the hours that ``cells`` and their meta-training take on all workers.

    ``trained``: meta-trainings that are done; ``seconds``: mean seconds by (method, steps) of cells that are done, adaptation and
    scoring together; where there are none, the settings' first guesses.
    """
    trainings = {cell.pretraining for cell in cells if cell.pretraining} - trained
    total = len(trainings) * (settings.run.meta.max_seconds or 900.0)
    for cell in cells:
        method = method_named(cell.method)
        guess = 60 * method.minutes or settings.step_seconds * cell.steps * (method.budget or 1.0)
        guess += settings.case_seconds * num_scored(settings, cell)
        total += seconds.get((cell.method, cell.steps), guess)
    return total / settings.workers / 3600


def within_hours(settings: BenchmarkSettings) -> tuple[BenchmarkSettings, dict[str, str], float]:
    """Return the settings whose whole grid can be run here and fits into ``max_hours``, why each other method is left out, and the hours.

    Hours go by the settings' guesses alone: what is left out must not depend on how far a run has come.
    """
    dropped = {name: why for name in settings.methods if (why := method_named(name).missing())}
    kept = settings.model_copy(update={"methods": tuple(name for name in settings.methods if name not in dropped)})
    while (hours := predicted_hours(kept, grid(kept), set(), {})) > settings.max_hours and len(kept.methods) > 1:
        dropped[kept.methods[-1]] = f"the whole grid would take more than {settings.max_hours:g} hours"
        kept = kept.model_copy(update={"methods": kept.methods[:-1]})
    return kept, dropped, hours
