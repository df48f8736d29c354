"""The settings of the comparison of recipes, and the settings of the meta-training that a recipe describes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ...config import Section
from ...config.load import override
from ...engine.phases import Kind, kinds_of, share_of
from ...engine.settings import Settings, load_settings
from ...errors import ConfigError, suggest
from ...resources import find_resource
from ..benchmark.methods import PRETRAININGS

#: a number of iterations that no training reaches
NO_LIMIT = 1_000_000


class Fold(Section):
    """Groups that are held out together, and the data sets of them that the starts adapt to."""

    hold_out: tuple[str, ...]
    datasets: tuple[str, ...]
    final: bool = False  #: chooses nothing: run by --final alone


class Recipe(Section):
    """One way of meta-training: what differs from the defaults."""

    about: str
    config: str = ""  #: a YAML file, or the name of a shipped one; empty: the defaults
    pretraining: str = ""  #: a kind of the benchmark's table, which changes these settings
    overrides: dict[str, Any] = {}  #: settings that differ, by section
    datasets: tuple[str, ...] = ()  #: data sets to learn from, minus those held out; empty: all
    seeds: tuple[int, ...] = (0,)
    times: float = Field(default=1.0, gt=0)  #: of ``train_seconds``
    pace: float = Field(default=1.0, gt=0)  #: time of an iteration / time at the default width, measured
    own_fresh: bool = False  #: also list fresh weights in its network, for a recipe with a network of its own
    series: tuple[Literal["time", "sets", "width"], ...] = ()  #: tables of the page that list it, by what they vary

    @field_validator("pretraining")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value and value not in PRETRAININGS:
            raise ValueError(f"no kind is called {value!r}; {suggest(value, PRETRAININGS)}")
        return value


class StartSettings(Section):
    """Which recipes are trained for how long, and what their starts adapt to."""

    cache: str = "runs/start/cache"  #: prepared scans of all data sets
    out: str = "runs/start"  #: trainings, one JSON a cell, and start.csv
    workers: int = Field(default=2, ge=1)  #: trainings, then cells, at a time; one thread each
    launcher: str = "processes"  #: a registered launcher: processes, or serial
    only: str = ""  #: names of recipes, separated by commas; empty: all
    train_seconds: float = Field(default=420.0, gt=0)  #: wall time of a training on an undisturbed core
    paces: dict[Kind, Annotated[float, Field(gt=0)]] = {}  #: seconds of an iteration of each kind there, measured
    draws: int = Field(default=2, ge=1)  #: supports that are drawn of each data set
    long_draws: int = Field(default=1, ge=1)  #: of them, for more than ``long_steps`` steps
    long_steps: int = Field(default=20, ge=0)
    shots: int = Field(default=5, ge=1)  #: scans of a support; fewer where a data set has fewer patients outside the query
    num_query: int = Field(default=4, ge=1)  #: scans that are scored
    steps: tuple[int, ...] = (0, 20, 100)
    folds: dict[str, Fold] = {}
    recipes: dict[str, Recipe] = {}
    final: tuple[str, ...] = ()  #: recipes that --final runs

    @property
    def folder(self) -> Path:
        return Path(self.out)

    def chosen(self, final: bool) -> dict[str, Recipe]:
        """Return the recipes to run; ConfigError for an unknown name."""
        wanted = [name.strip() for name in self.only.split(",") if name.strip()]
        for key, names in (("only", wanted), ("final", self.final)):
            for name in names:
                if name not in self.recipes:
                    raise ConfigError(f"{key}: no recipe is called {name!r}; {suggest(name, self.recipes)}")
        names = [name for name in (self.final if final else self.recipes) if name in (wanted or self.recipes)]
        if not names:
            raise ConfigError("final: name the recipes that --final runs" if final else "recipes: there are none")
        return {name: self.recipes[name] for name in names}

    def settings_of(self, name: str, fold: str, seed: int) -> Settings:
        """Return the settings of one meta-training; ConfigError that names the recipe where a value is wrong."""
        recipe = self.recipes[name]
        try:
            made = load_settings(find_resource("configs", recipe.config) if recipe.config else None)
            made = PRETRAININGS[recipe.pretraining](made) if recipe.pretraining else made
            made = override(made, [*flags(recipe.overrides)])
        except ConfigError as error:
            raise ConfigError(f"recipes.{name}: {error}") from error
        hold_out = tuple(dict.fromkeys((*made.tasks.hold_out, *self.folds[fold].hold_out)))
        shares: dict[Kind, float] = {kind: share_of(made.phases, kind) for kind in kinds_of(made.phases)}
        if missing := sorted(set(shares) - set(self.paces)):
            raise ConfigError(f"recipes.{name}: paces gives no seconds of an iteration of {missing[0]}. Measure and add them.")
        mean = recipe.pace * sum(share * self.paces[kind] for kind, share in shares.items())
        iterations = max(round(self.train_seconds * recipe.times / mean), 1)
        changes = {
            "tasks": {"hold_out": hold_out, "validation": ()}
            | ({"distribution": str(self.sets_of(name))} if recipe.datasets else {}),
            # iterations, not seconds, end a training: what else the machine does must not change a result
            "meta": {"max_seconds": 0.0, "iterations": iterations, "validate_every": NO_LIMIT, "num_validation": 0},
        }
        sections = {key: getattr(made, key).model_copy(update=values) for key, values in changes.items()}
        return made.model_copy(update={**sections, "seed": seed, "threads": 1, "cache": self.cache})

    def sets_of(self, name: str) -> Path:
        """Return the distribution file of a recipe that names its data sets."""
        return self.folder / "distributions" / f"{name}.yaml"


def flags(values: Mapping[str, Any], place: str = "-") -> Iterator[str]:
    """Yield nested settings as ``--section.key``, ``value``, ..."""
    for key, value in values.items():
        below = f"{place}.{key}" if place != "-" else f"--{key}"
        if isinstance(value, Mapping):
            yield from flags(value, below)
        else:
            yield from (below, json.dumps(value))
