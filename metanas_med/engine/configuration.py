"""One choice of the joint space: architecture, view and adaptation together, as Auto-nnU-Net chooses them (arXiv 2505.16561).

A configuration names options of rows. Rows of the search space say what the network is. Pipeline rows say what it sees and how it is
stepped: they are settings of plan and learner, sampled and never relaxed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.settings import PlanSettings
from ..errors import ConfigError, suggest
from ..learner import LearnerSettings
from ..space import Row, get_space
from .meta_run import MetaRun

#: what the names of pipeline rows begin with
PIPELINE = "pipeline/"


@dataclass(frozen=True)
class Setting:
    """A row of the pipeline: the field of ``plan`` or ``learner`` that it sets, and the value of each option, the default first."""

    section: str
    field: str
    values: Mapping[str, Any]


#: pipeline rows by name. Options around the defaults, after Auto-nnU-Net's priors and trials with five scans (docs/minutes.md)
SETTINGS: Mapping[str, Setting] = {
    f"{PIPELINE}view_voxels": Setting("plan", "view_voxels", {"32768": 32768, "16384": 16384, "65536": 65536, "131072": 131072}),
    f"{PIPELINE}margin": Setting("plan", "margin", {"1.6": 1.6, "1.2": 1.2, "2.2": 2.2, "3": 3.0}),
    f"{PIPELINE}ratio": Setting("plan", "ratio", {"native": 0.0, "2": 2.0, "1": 1.0}),
    f"{PIPELINE}thick_stride": Setting("plan", "thick_stride", {"auto": 0, "1": 1, "2": 2}),
    f"{PIPELINE}foreground": Setting("plan", "foreground", {"0.7": 0.7, "0.4": 0.4, "1": 1.0}),
    f"{PIPELINE}augment": Setting("plan", "augment", {"1": 1.0, "0": 0.0, "2": 2.0}),
    f"{PIPELINE}rate": Setting("learner", "rate", {"1": 1.0, "0.3": 0.3, "3": 3.0}),
    f"{PIPELINE}batch": Setting("learner", "batch", {"8": 8, "4": 4, "2": 2}),
    f"{PIPELINE}stepped": Setting("learner", "stepped", {"all": "all", "decoder": "decoder", "head": "head"}),
}


@dataclass(frozen=True)
class Configuration:
    """Names of options by row, for rows that differ from the start's default; empty: the default."""

    picks: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def name(self) -> str:
        """The picks in one line, or ``default``."""
        return " ".join(f"{row.removeprefix(PIPELINE)}={option}" for row, option in sorted(self.picks.items())) or "default"

    @property
    def network(self) -> dict[str, str]:
        """The picks of the search space."""
        return {row: option for row, option in self.picks.items() if not row.startswith(PIPELINE)}

    @property
    def pipeline(self) -> dict[str, str]:
        """The picks of the pipeline, without their prefix: the ``pipeline`` part of a genotype."""
        return {row.removeprefix(PIPELINE): option for row, option in self.picks.items() if row.startswith(PIPELINE)}

    def apply(self, run: MetaRun, learner: LearnerSettings, plan: PlanSettings) -> tuple[MetaRun, LearnerSettings, PlanSettings]:
        """Return start, learner and plan of this configuration; those given are the start's own, with the views of ``adapt``.

        Rows that are not picked keep what is given, or the defaults of the start's space. Raises ConfigError for a row or an
        option that the start or its learner does not have.
        """
        changes: dict[str, dict[str, Any]] = {"plan": {}, "learner": {}}
        for name, option in self.pipeline.items():
            setting = SETTINGS.get(PIPELINE + name)
            if setting is None:
                raise ConfigError(
                    f"no row of the pipeline is called {name!r}; {suggest(name, [n.removeprefix(PIPELINE) for n in SETTINGS])}"
                )
            if option not in setting.values:
                raise ConfigError(f"pipeline {name}: no option {option!r}; it offers {', '.join(setting.values)}")
            if setting.section == "learner" and setting.field not in type(learner).model_fields:
                raise ConfigError(f"pipeline {name}: the learner {learner.name} has no setting {setting.field}")
            changes[setting.section][setting.field] = setting.values[option]
        chosen = {**dict(getattr(run.settings.space, "defaults", ())), **self.network}
        made = run.narrowed(chosen) if chosen else run
        return made, learner.model_copy(update=changes["learner"]), plan.model_copy(update=changes["plan"])

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return {"network": self.network, "pipeline": self.pipeline}

    @staticmethod
    def from_json(note: Any) -> Configuration:
        """Return the configuration that ``to_json`` wrote. Raises ConfigError where it is not one."""
        picks: dict[str, str] = {}
        for key, prefix in (("network", ""), ("pipeline", PIPELINE)):
            part = note.get(key, {}) if isinstance(note, Mapping) else None
            if not isinstance(part, Mapping) or not all(isinstance(text, str) for pair in part.items() for text in pair):
                raise ConfigError(f"a configuration has options by row under network and pipeline, found {str(note)[:80]}")
            picks |= {prefix + row: option for row, option in part.items()}
        return Configuration(picks)


def joint_rows(run: MetaRun) -> dict[str, Row]:
    """Return all rows that configurations of a start may pick, the default option of each first: of its space, then of the pipeline.

    Rows of cells (candidates and inputs of single edges) are left out: from five scans they make no difference.
    """
    space, learner = run.settings.space, run.settings.adapt
    defaults = dict(getattr(space, "defaults", ()))
    rows = {}
    for name, row in get_space(space).rows().items():
        if space.name == "fewshot":
            first = defaults.get(name, row.options[0])
            rows[name] = Row((first, *(option for option in row.options if option != first)), row.type)
    for name, setting in SETTINGS.items():
        if setting.section == "plan" or setting.field in type(learner).model_fields:
            rows[name] = Row(tuple(setting.values), "sampled")
    return rows


def random_configuration(run: MetaRun, generator: np.random.Generator, changes: int = 3) -> Configuration:
    """Return a configuration that differs from the default in ``changes`` rows, rows and options drawn uniformly."""
    rows = joint_rows(run)
    names = [str(name) for name in generator.choice(list(rows), size=min(changes, len(rows)), replace=False)]
    return Configuration({name: rows[name].options[int(generator.integers(1, len(rows[name].options)))] for name in names})
