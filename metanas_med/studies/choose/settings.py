"""The settings of the grid of configurations that ``study scores`` and ``study portfolio`` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from ...engine.configuration import Configuration
from ..grid.settings import Folders


class ChooseSettings(Folders):
    """Which configurations adapt to which data sets from one start, and what is measured."""

    start: str = "default"  #: a shipped start or the folder of a run, which must not have seen the data sets
    starts: dict[str, str] = {}  #: other starts by data set, of the same space, where ``start`` has seen it
    cache: str = "runs/start/cache"  #: prepared scans of the data sets
    out: str = "runs/choose"  #: one JSON a cell, all from one start and with one set of settings; made phantoms
    workers: int = Field(default=2, ge=1)  #: cells at a time, one thread each
    launcher: str = "processes"  #: a registered launcher: processes, or serial
    only: str = ""  #: run only cells whose name contains this, or one of several, with commas
    datasets: tuple[str, ...] = ()  #: prepared data sets of development groups
    phantoms: tuple[str, ...] = ()  #: phantom organs, which the study makes and prepares
    phantom_cases: int = Field(default=16, ge=2)  #: scans of each phantom organ
    #: options by row, such as ``{levels: "3", pipeline/rate: "0.3"}``; an empty one is the default and comes first
    configurations: tuple[dict[str, str], ...] = ({},)
    draws: int = Field(default=3, ge=1)  #: supports that are drawn of each data set
    shots: int = Field(default=5, ge=2)  #: scans of a support
    num_query: int = Field(default=8, ge=1)  #: scored scans of other patients, the same for all draws
    steps: int = Field(default=30, ge=1)  #: gradient steps of both runs of the default
    fold_steps: int = Field(default=15, ge=0)  #: gradient steps of each fold of the scores ``folds`` and ``loso``, of the default
    equal_time: bool = True  #: other configurations take as long as the default, so they take more steps where a step costs less
    folds: int = Field(default=2, ge=2)  #: parts of the support, each left out once by the score ``folds``

    @field_validator("configurations", mode="before")
    @classmethod
    def _are_texts(cls, value: Any) -> Any:
        """Read numbers of YAML as the names of options."""
        if not isinstance(value, list | tuple):
            return value
        return tuple(
            {row: _text(option) for row, option in each.items()} if isinstance(each, Mapping) else each for each in value
        )

    @field_validator("configurations")
    @classmethod
    def _start_with_the_default(cls, value: tuple[dict[str, str], ...]) -> tuple[dict[str, str], ...]:
        if not value or value[0]:
            raise ValueError("expected the default first: an empty mapping, {}")
        names = [Configuration(each).name for each in value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} is listed twice")
        return value

    @property
    def choices(self) -> tuple[Configuration, ...]:
        """Return the configurations, the default first."""
        return tuple(Configuration(each) for each in self.configurations)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all data sets."""
        return (*self.datasets, *self.phantoms)


def _text(option: Any) -> str:
    return f"{option:g}" if isinstance(option, int | float) and not isinstance(option, bool) else str(option)
