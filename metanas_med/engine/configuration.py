"""One choice of the joint space of architecture, plan and learner: the options that differ from the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..data.settings import PlanSettings
from ..errors import ConfigError
from ..learner import LearnerSettings
from .meta_run import MetaRun

#: rows of the plan and the learner, with their type
_PLAN = {"view_voxels": int, "margin": float, "foreground": float}
_LEARNER = {"batch": int}


@dataclass(frozen=True)
class Configuration:
    """One choice of the joint space: names of options by row, of rows that differ from the default; empty: the default."""

    picks: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return "default", or the picks: ``margin=2.2 view_voxels=65536``."""
        rows = sorted((row.removeprefix("pipeline/"), option) for row, option in self.picks.items())
        return " ".join(f"{row}={option}" for row, option in rows) or "default"

    def apply(self, run: MetaRun, learner: LearnerSettings, plan: PlanSettings) -> tuple[MetaRun, LearnerSettings, PlanSettings]:
        """Return run, learner and plan with these picks; ConfigError for a row that the start does not have."""
        for row, option in self.picks.items():
            name = row.removeprefix("pipeline/")
            if row != name and name in _PLAN:
                plan = plan.model_copy(update={name: _PLAN[name](option)})
            elif row != name and name in _LEARNER:
                learner = learner.model_copy(update={name: _LEARNER[name](option)})
            else:
                raise ConfigError(f"the start has no row {row!r} of its space")
        return run, learner, plan

    def to_json(self) -> dict[str, Any]:
        """Return ``{"network": {row: option}, "pipeline": {row: option}}``."""
        network = {row: option for row, option in self.picks.items() if not row.startswith("pipeline/")}
        pipeline = {row.removeprefix("pipeline/"): o for row, o in self.picks.items() if row.startswith("pipeline/")}
        return {"network": network, "pipeline": pipeline}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Configuration:
        """Return the configuration that ``to_json`` gave."""
        pipeline = {f"pipeline/{row}": str(option) for row, option in value["pipeline"].items()}
        return Configuration({**{str(row): str(option) for row, option in value["network"].items()}, **pipeline})
