"""What a cell needs to run: its data set, task, support, query, settings and time budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.cached import CachedDataset
from ...data.settings import PlanSettings
from ...learner import Runtime, choose_runtime
from ...tasks.organ import OrganTask, task_in
from ..grid.cases import open_prepared, query_cases, support_cases
from .cells import Cell, num_scored
from .methods import Method, method_named
from .settings import BenchmarkGroup, BenchmarkSettings


@dataclass(frozen=True)
class Job:
    """A cell with everything that it names looked up."""

    settings: BenchmarkSettings
    cell: Cell
    group: BenchmarkGroup
    dataset: CachedDataset
    task: OrganTask
    support: Sequence[str]
    query: Sequence[str]
    held_back: Sequence[str] = ()  #: query cases of the cells with the longest query list; no method may learn from them

    @property
    def method(self) -> Method:
        return method_named(self.cell.method)

    @property
    def plan(self) -> PlanSettings:
        return self.settings.plan.model_copy(update=dict(self.method.plan))

    @property
    def runtime(self) -> Runtime:
        return choose_runtime(self.settings.run.device, self.settings.run.precision)

    @property
    def budget(self) -> float:
        """Return the seconds that the method may take; 0 where its steps are given."""
        if not self.cell.reference:
            return 60.0 * self.method.minutes
        path = Path(self.settings.out) / "cells" / self.cell.reference.file
        return self.cell.times * float(json.loads(path.read_text())["rows"][0]["seconds"])


def look_up(settings: BenchmarkSettings, cell: Cell) -> Job:
    """Return the job of a cell. Its support is the same for every cell of the draw."""
    group = next(g for g in settings.groups if g.name == cell.group)
    dataset = open_prepared(str(Path(settings.run.cache) / f"{cell.dataset}.h5"))
    task = task_in(dataset, cell.target)
    # the longest query list decides which patients are left for supports, so that every cell of a draw has the same support
    query = query_cases(dataset, settings.num_query)
    support = support_cases(dataset, task, cell.shots, cell.draw, query)
    return Job(settings, cell, group, dataset, task, support, query[: num_scored(settings, cell)], query)
