"""The settings of the comparison of spaces and task learners."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from ...data.settings import PlanSettings
from ...errors import ConfigError
from ...learner import DartsSettings
from ...space import SPACES, SpaceSettings
from ..grid.settings import GridSettings

#: the plain U-Net that spaces are compared with
PLAIN = "unet"
#: the size of every network, unless ``sizes`` says otherwise
SIZE: dict[str, Any] = {"base_width": 8, "max_width": 32, "levels": 4}


def shipped_spaces() -> tuple[str, ...]:
    """Return the names of the search spaces of the package that have something to search: no space of a test or of a study."""
    package = SpaceSettings.__module__.rpartition(".")[0]
    found = [entry.name for entry in SPACES.entries() if entry.factory.__module__.startswith(f"{package}.")]
    return tuple(name for name in found if name != PLAIN)


class SpacesSettings(GridSettings):
    """Which spaces are searched by which learners, and for how long."""

    cache: str = "runs/spaces/cache"  #: prepared scans
    out: str = "runs/spaces"  #: one JSON a cell, all made with one set of settings
    dataset: str = "Ext20_ProstateMR"  #: of a development group
    organ: str = "all"
    spaces: tuple[str, ...] = ()  #: names of search spaces; none: all of the package
    sizes: dict[str, dict[str, Any]] = {}  #: settings by space, laid over a base width of 8, at most 32 channels and 4 levels
    learners: tuple[str, ...] = ("darts", "pc_darts", "gdas", "proxyless", "single_path")  #: presets
    seeds: int = Field(default=2, ge=1)  #: searches of each space and learner, each with a training of what it found
    random: int = Field(default=10, ge=0)  #: random architectures of each space, of the cost of those that were found
    shots: int = Field(default=5, ge=2)  #: scans of the support, the same for all cells
    num_query: int = Field(default=4, ge=1)  #: scored scans of other patients
    search_steps: int = Field(default=20, ge=1)
    steps: int = Field(default=30, ge=1)  #: steps of a derived network from fresh weights
    timed_steps: int = Field(default=3, ge=2)  #: steps whose time and memory are measured
    batch: int = Field(default=2, ge=1)  #: patches of a step of search; ``train`` says those of a training
    plan: PlanSettings = PlanSettings(view_voxels=13_824, adapt_voxels=0)
    train: DartsSettings = DartsSettings(alpha="frozen")  #: of derived networks and of the U-Net

    @field_validator("learners")
    @classmethod
    def _are_listed_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in value if value.count(name) > 1]:
            raise ValueError(f"{twice[0]} is listed twice")
        return value

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the spaces; ConfigError for an unknown one."""
        for name in (*self.spaces, *self.sizes):
            SPACES.check(name)
        return self.spaces or shipped_spaces()

    def space(self, name: str, edge: str = "") -> SpaceSettings:
        """Return the settings of a space; ``edge``: how mixed edges run, where a space has a choice."""
        kind = SPACES.entry(name).settings or SpaceSettings
        values = {"name": name, **SIZE, **self.sizes.get(name, {}), **({"edge": edge} if edge else {})}
        try:
            return kind.model_validate(values)
        except ValueError as error:
            raise ConfigError(f"sizes: {name}: {' '.join(str(error).split())[:200]}") from error

    def plain(self) -> SpaceSettings:
        """Return the plain U-Net of the usual size."""
        return self.space(PLAIN)
