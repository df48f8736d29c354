"""The task learners of the planted problem: the shipped presets, with numbers and rates that fit its 60 steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...engine.learner_presets import preset_names, read_learner_preset
from ...learner import DartsSettings
from .problem import Problem

#: rates of all learners; all steps search, because the discrete network is not judged
SHARED: dict[str, Any] = {
    "steps": 60,
    "batch": 4,
    "optimizer": "adam",
    "lr": 5e-3,
    "lr_decay": "none",
    "average": 0.0,
    "head": "meta_row",
    "alpha_lr": 0.05,
}
#: the learner that adapt has by default: alphas step with the weights
DEFAULT = "single_level"


@dataclass(frozen=True)
class Changes:
    """What differs from a preset and the shared rates, chosen on other seeds than those of the table."""

    values: Mapping[str, Any] = field(default_factory=dict)
    partial: int = 1  #: K of the planted network
    warm_up: int | None = None  #: weight steps with equal alphas before the search; None: those of the problem
    reason: str = ""  #: why, for the page


#: a path sees weights that were trained for it: a warm-up with equal weights of all options would train them for a mixture
_PATHS = "no warm-up, weights at 1e-3"
_EVOLUTION = {"population": 16, "generations": 4, "parents": 4}
CHANGES: dict[str, Changes] = {
    "pc_darts": Changes(
        {"relaxation": {"k": 2}}, partial=2, reason="K = 2, and the planted operations, too, act on half of the channels"
    ),
    "darts_minus": Changes({"regularizers": [{"name": "darts_minus", "start": 0.3}]}, reason="auxiliary skip from 0.3"),
    "gdas": Changes({"lr": 1e-3, "batch": 8}, 1, 0, f"{_PATHS}, batches of 8"),
    "proxyless": Changes({"lr": 1e-3, "alpha_lr": 0.2}, 1, 0, f"{_PATHS}, alphas at 0.2"),
    "single_path": Changes({"lr": 1e-3, "discretizer": _EVOLUTION}, 1, 0, f"{_PATHS}, evolution of 16 networks"),
    "fairnas": Changes({"lr": 1e-3, "discretizer": _EVOLUTION}, 1, 0, f"{_PATHS}, evolution of 16 networks"),
    "beta_darts": Changes({"regularizers": [{"name": "beta_decay", "end": 0.1}]}, reason="weight up to 0.1"),
    "fair_darts": Changes(
        {"alpha_lr": 0.1, "regularizers": [{"name": "fair_darts", "weight": 0.1}]}, reason="weight 0.1, alphas at 0.1"
    ),
    "sdarts_adv": Changes({"regularizers": [{"name": "sdarts", "mode": "adversarial", "ascents": 3}]}, reason="three ascents"),
}
#: presets that a planted problem cannot judge
LEFT_OUT = {"darts_plus": "it ends a search by the number of skips in a cell, and here each edge is a cell of its own"}


def learner_names() -> list[str]:
    """Return the learners of the study: the default and the presets that it can judge."""
    return [DEFAULT, *(name for name in preset_names() if name not in LEFT_OUT)]


def settings_of(name: str) -> DartsSettings:
    """Return the settings of a learner's run."""
    relaxation = {"name": "softmax", "tau_start": 1.0, "tau_end": 1.0}
    own = {"relaxation": relaxation} if name == DEFAULT else read_learner_preset(name, "adapt")
    changes = CHANGES.get(name, Changes()).values
    values = {**SHARED, **own, **{key: value for key, value in changes.items() if not isinstance(value, Mapping)}}
    for key, value in changes.items():
        if isinstance(value, Mapping):
            values[key] = {**own.get(key, {}), **value}
    end = {**values.get("discretizer", {"name": "argmax"}), "phase": 1.0, "max_steps": 0}
    return DartsSettings.model_validate({**values, "discretizer": end})


def has_alphas(name: str) -> bool:
    """Return whether a learner's alphas move, so that its report can say which options cannot be told apart."""
    return settings_of(name).relaxation.name != "uniform"


def problem_of(name: str, problem: Problem) -> Problem:
    """Return ``problem`` as a learner searches it."""
    own = CHANGES.get(name, Changes())
    warm_up = problem.warm_up if own.warm_up is None else own.warm_up
    settings = settings_of(name).model_copy(update=dict(problem.limits))
    return replace(problem, learner=settings, partial=own.partial, warm_up=warm_up)
