"""The grid: which method adapts to which organ, from how many scans, for how many steps; what is done and how long the rest takes.

A cell is one adaptation with the scores of its query cases, and one JSON file, written when it is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...errors import ConfigError
from ...learner import switch_step
from ..grid import cells_named
from .methods import method_named
from .settings import BenchmarkGroup, BenchmarkSettings

#: steps of the search that budgets of time go by
REFERENCE_STEPS = 20


@dataclass(frozen=True)
class Cell:
    """One adaptation. ``target``: "all" labels of the data set at once, or one of them by itself.

    ``times``: if not 0, the method has the time of so many adaptations of its reference (``metanas`` but for one) in place of
    ``steps``, which are then those of that search.
    """

    group: str
    dataset: str
    target: str
    method: str
    shots: int
    steps: int
    draw: int
    seed: int
    times: float = 0.0

    @property
    def name(self) -> str:
        """Return a name that no other cell of the grid has, fit for a file."""
        length = self.time.replace(" ", "") or f"{self.steps}step"
        parts = (
            self.group,
            self.dataset,
            self.target,
            self.method,
            f"{self.shots}shot",
            length,
            f"draw{self.draw}",
            f"seed{self.seed}",
        )
        return "-".join(parts).replace(" ", "_").replace("/", "_")

    @property
    def file(self) -> str:
        return f"{self.name}.json"

    @property
    def time(self) -> str:
        """Return the budget of time in words; empty where steps are given."""
        minutes = method_named(self.method).minutes
        return f"x{self.times:g}" if self.times else f"{minutes:g} min" if minutes else ""

    @property
    def place(self) -> tuple[str, ...]:
        """Return what tells the cell's rows from those of others; of one that has a time, its steps do not count."""
        steps = 0 if self.time else self.steps
        parts = (self.group, self.dataset, self.target, self.method, self.shots, self.time, self.draw, self.seed, steps)
        return tuple(str(part) for part in parts)

    @property
    def pretraining(self) -> tuple[str, str, int] | None:
        """Return group, kind and seed of the meta-training that the cell starts from; None for fresh weights."""
        kind = method_named(self.method).pretraining
        return (self.group, kind, self.seed) if kind else None

    @property
    def reference(self) -> Cell | None:
        """Return the search by whose time a budget goes; None where it goes by none."""
        if not self.times:
            return None
        whose = method_named(self.method).reference
        return Cell(self.group, self.dataset, self.target, whose, self.shots, REFERENCE_STEPS, self.draw, 0)


def grid(settings: BenchmarkSettings) -> list[Cell]:
    """Return every cell of the settings, those that the claim rests on first; ConfigError for an unknown method."""
    cells = {cell for group in settings.groups for cell in _cells(settings, group)}
    cells |= {cell.reference for cell in cells if cell.reference}
    if not cells:
        raise ConfigError("the benchmark names no method or no group; see the shipped configuration")
    order = {method: place for place, method in enumerate(settings.methods)}
    shots = {number: place for place, number in enumerate(settings.shots)}

    def key(c: Cell) -> tuple:
        # by seed, for each has meta-trainings of its own, then by draw, so that a grid that stops early is balanced; within, what the claim
        # rests on before curves
        return (c.seed, c.draw, shots[c.shots], _turn(settings, c), order.get(c.method, 0), c.target != "all", c.name)

    return sorted(cells, key=key)


def _turn(settings: BenchmarkSettings, cell: Cell) -> int:
    """Return when a cell's turn is: the reference steps, what is equal to them in gradients or seconds, other steps, curves, longer times.

    So a search comes before the budgets that go by its time.
    """
    if cell.time:
        return 1 if cell.times == 1 else 4
    if cell.steps == REFERENCE_STEPS:
        return 0
    if cell.steps in (*settings.matched_steps, *settings.search_steps):
        return 1
    return 3 if cell.steps in settings.curve_steps else 2


def _cells(settings: BenchmarkSettings, group: BenchmarkGroup) -> Iterator[Cell]:
    first = next((g.name for g in settings.groups if not g.development), None)
    for data in group.data:
        for name in settings.methods:
            method = method_named(name)
            if (method.one_group and group.name != first) or (method.development and not group.development):
                continue
            targets = ("all", *data.organs) if name in settings.each_organ else ("all",)
            for target in targets:
                for shots in settings.shots:
                    if method.only_shots and shots not in method.only_shots:
                        continue
                    for steps, times in _lengths(settings, name):
                        for draw in range(1 if method.one_draw else settings.draws):
                            for seed in range(settings.seeds if method.several_seeds else 1):
                                yield Cell(group.name, data.dataset, target, name, shots, steps, draw, seed, times)


def _lengths(settings: BenchmarkSettings, name: str) -> list[tuple[int, float]]:
    """Return (steps, times) of a method's cells: those that are asked for, and what equal gradients and equal time need."""
    method = method_named(name)
    if method.minutes:
        return [(REFERENCE_STEPS, 0.0)]
    if method.times:
        return [(REFERENCE_STEPS, method.times)]
    more = settings.search_steps if name == "metanas" else () if method.search else settings.matched_steps
    steps = (*settings.steps, *settings.curve_steps, *more)
    lengths = [(number, 0.0) for number in dict.fromkeys(steps)]
    return lengths if method.search else [*lengths, (REFERENCE_STEPS, 1.0)]


def chosen(settings: BenchmarkSettings) -> list[Cell]:
    """Return the cells that ``settings.only`` names (all by default) and what their budgets go by; ConfigError for none."""
    everything = grid(settings)
    found = set(cells_named(everything, settings.only))
    found |= {cell.reference for cell in found if cell.reference}
    return [cell for cell in everything if cell in found]


def num_scored(settings: BenchmarkSettings, cell: Cell) -> int:
    """Return how many query cases a cell is scored on."""
    return settings.curve_query if cell.steps in settings.curve_steps else settings.num_query


def predicted_hours(
    settings: BenchmarkSettings, cells: Sequence[Cell], trained: set, seconds: Mapping[tuple[str, int, float], float]
) -> float:
    """Return the hours that ``cells`` and their meta-training take on all workers.

    ``trained``: meta-trainings that are done; ``seconds``: mean seconds by (method, steps, times) of whole cells that are done;
    where there are none, the settings' first guesses. A method that takes the machine for itself is not shared among workers.
    """
    trainings = {cell.pretraining for cell in cells if cell.pretraining} - trained
    total = len(trainings) * (settings.run.meta.max_seconds or settings.meta_seconds) / settings.workers
    for cell in cells:
        method = method_named(cell.method)
        whose = method_named(method.reference) if cell.times else method
        steps = cell.steps + (settings.run.pretext.steps if whose.unlabelled else 0)
        if whose.search and settings.run.adapt.bilevel:  # while it searches, a step has a gradient of alpha, too
            steps += switch_step(settings.run.adapt.model_copy(update={"steps": cell.steps}))
        guess = 60 * method.minutes or settings.step_seconds * steps * (cell.times or 1.0)
        guess += settings.case_seconds * num_scored(settings, cell) + (settings.peer_seconds if method.alone else 0.0)
        taken = seconds.get((cell.method, cell.steps, cell.times), guess)
        total += taken if method.alone else taken / settings.workers
    return total / 3600


def within_hours(settings: BenchmarkSettings) -> tuple[BenchmarkSettings, dict[str, str], float]:
    """Return the settings whose whole grid can be run here and fits into ``max_hours``, why each other method is left out, and the hours.

    Hours are of the test groups, by the settings' guesses and by all methods, installed or not: what is left out for time must depend neither on how
    far a run has come nor on where it is made.
    """

    def whole(some: BenchmarkSettings) -> float:
        test = tuple(g for g in some.groups if not g.development) or some.groups
        return predicted_hours(some, grid(some.model_copy(update={"groups": test})), set(), {})

    dropped, kept = {}, settings
    while (hours := whole(kept)) > settings.max_hours and len(kept.methods) > 1:
        dropped[kept.methods[-1]] = f"the whole grid would take more than {settings.max_hours:g} hours"
        kept = kept.model_copy(update={"methods": kept.methods[:-1]})
    dropped |= {name: why for name in kept.methods if (why := method_named(name).missing())}
    return kept.model_copy(update={"methods": tuple(name for name in kept.methods if name not in dropped)}), dropped, hours
