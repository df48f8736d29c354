"""The grid: which method adapts to which organ, from how many scans and for how many steps, and how long that takes.

A cell is one adaptation and the scores of its query cases. It is one JSON file, written when the cell is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...errors import ConfigError
from ..grid.cells import cells_named
from .methods import method_named
from .settings import BenchmarkGroup, BenchmarkSettings

#: steps of the search whose time defines time budgets
REFERENCE_STEPS = 20


@dataclass(frozen=True)
class Cell:
    """One adaptation. ``target``: "all" labels of the data set at once, or one label alone.

    ``times``: if not 0, the method may take as long as that many adaptations of its reference (nearly always ``metanas``),
    and ``steps`` are those of that reference.
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
        """Return a name that is unique in the grid and can name a file."""
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
        """Return the time budget in words; empty where steps are given."""
        minutes = method_named(self.method).minutes
        return f"x{self.times:g}" if self.times else f"{minutes:g} min" if minutes else ""

    @property
    def place(self) -> tuple[str, ...]:
        """Return the key of the cell's rows in the results. The steps of a cell with a time budget are no part of it."""
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
        """Return the search whose time defines the budget; None without a budget of that kind."""
        if not self.times:
            return None
        whose = method_named(self.method).reference
        return Cell(self.group, self.dataset, self.target, whose, self.shots, REFERENCE_STEPS, self.draw, 0)


def grid(settings: BenchmarkSettings) -> list[Cell]:
    """Return every cell of the settings, the most important first; ConfigError for an unknown method."""
    cells = {cell for group in settings.groups for cell in _cells(settings, group)}
    cells |= {cell.reference for cell in cells if cell.reference}
    if not cells:
        raise ConfigError("the benchmark names no method or no group. See the shipped configuration.")
    order = {method: place for place, method in enumerate(settings.methods)}
    shots = {number: place for place, number in enumerate(settings.shots)}

    def key(c: Cell) -> tuple:
        # by seed, because each seed has its own meta-trainings, then by draw, so that a grid that stops early is balanced;
        # within a draw, what the claim needs comes before curves
        return (c.seed, c.draw, shots[c.shots], _turn(settings, c), order.get(c.method, 0), c.target != "all", c.name)

    return sorted(cells, key=key)


def _turn(settings: BenchmarkSettings, cell: Cell) -> int:
    """Return the rank of a cell: the reference steps, equal gradients or seconds, other steps, curves, longer times.

    So a search comes before the budgets that its time defines.
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
    """Return (steps, times) of a method's cells: the requested ones, and those for equal gradients and equal time."""
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
    """Return the cells that ``settings.only`` names (default: all) and the searches that define their budgets.

    ConfigError for none.
    """
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

    ``trained``: finished meta-trainings. ``seconds``: mean seconds of finished cells by (method, steps, times); without any, the
    settings' first guess is used. A method that needs the whole machine does not share it with other workers.
    """
    trainings = {cell.pretraining for cell in cells if cell.pretraining} - trained
    total = len(trainings) * (settings.run.meta.max_seconds or settings.meta_seconds) / settings.workers
    for cell in cells:
        method = method_named(cell.method)
        whose = method_named(method.reference) if cell.times else method
        steps = cell.steps + (settings.run.pretext.steps if whose.unlabelled else 0)
        if whose.search:  # a step of the search may take gradients of alpha, too
            steps += settings.run.adapt.extra_evaluations(cell.steps)
        guess = 60 * method.minutes or settings.step_seconds * steps * (cell.times or 1.0)
        guess += settings.case_seconds * num_scored(settings, cell) + (settings.peer_seconds if method.alone else 0.0)
        taken = seconds.get((cell.method, cell.steps, cell.times), guess)
        total += taken if method.alone else taken / settings.workers
    return total / 3600


def within_hours(settings: BenchmarkSettings, only_reported: bool = False) -> tuple[BenchmarkSettings, dict[str, str], float]:
    """Return the settings whose grid fits into ``max_hours``, why each other method is left out, and the hours.

    Methods that are not installed are left out, unless the grid is ``only_reported``. The hours are those of the test groups
    by the settings' guesses, and include methods that are not installed: what is left out for time must depend neither on
    progress nor on the machine.
    """

    def whole(some: BenchmarkSettings) -> float:
        test = tuple(g for g in some.groups if not g.development) or some.groups
        return predicted_hours(some, grid(some.model_copy(update={"groups": test})), set(), {})

    dropped, kept = {}, settings
    while (hours := whole(kept)) > settings.max_hours and len(kept.methods) > 1:
        dropped[kept.methods[-1]] = f"the whole grid would take more than {settings.max_hours:g} hours"
        kept = kept.model_copy(update={"methods": kept.methods[:-1]})
    if not only_reported:
        dropped |= {name: why for name in kept.methods if (why := method_named(name).missing())}
    return kept.model_copy(update={"methods": tuple(name for name in kept.methods if name not in dropped)}), dropped, hours
