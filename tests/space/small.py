"""Small settings of every search space, for tests that run each of them; a new space needs a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from metanas_med.space import SPACES, SpaceSettings, read_space_settings

#: strides of three transitions between levels
STRIDES = ((2, 2, 1), (2, 2, 2), (2, 1, 2))
SIZE: Mapping[str, Any] = {"base_width": 2, "max_width": 4, "levels": 3}

#: by name: settings that build in milliseconds, laid over SIZE
SMALL: Mapping[str, Mapping[str, Any]] = {
    "auto_nnunet": {"residual_blocks": (1, 2), "base_width": 4, "max_width": 8},
    "auto_nnunet_grammar": {"residual_blocks": (1, 2), "levels": 4},
    "bix": {"iterations": 2},
    "c2fnas": {"cells": 5},
    "dints": {"blocks": 2, "levels": 2, "channel_mul": 0.0625},
    "fewshot": {"base_width": 4, "max_width": 16},
    "grid": {"layers": 3},
    "nas_unet": {"num_nodes": 2},
    "unet": {},
    "unet_supernet": {"nodes": (1, 2), "coarse_from": 2, "search_depth": True},
    "vnas": {},
}
#: by name: what differs in the native form
NATIVE: Mapping[str, Mapping[str, Any]] = {"bix": {"levels": 2}, "vnas": {"pools": (4, 2), "blocks": (1,)}}
#: numbers of dimensions of native forms that have not both
NATIVE_DIMS: Mapping[str, tuple[int, ...]] = {"bix": (2,), "nas_unet": (2,)}


@dataclass(frozen=True)
class Case:
    """A space in one form and one number of dimensions."""

    name: str
    form: str
    dims: int

    @property
    def settings(self) -> SpaceSettings:
        """The small settings; the test fails where there are none."""
        if self.name not in SMALL:
            where = "tests/space/small.py"
            pytest.fail(f"{where} has no settings of search space {self.name!r}: add a line to SMALL that builds in milliseconds")
        form = {"form": self.form} if has_forms(self.name) else {}
        native = NATIVE.get(self.name, {}) if self.form == "native" else {}
        return read_space_settings({**SIZE, **SMALL[self.name], **native, **form, "dims": self.dims, "name": self.name})

    def __str__(self) -> str:
        return f"{self.name}-{self.form}-{self.dims}d" if has_forms(self.name) else f"{self.name}-{self.dims}d"


def space_names() -> list[str]:
    """Return the spaces of the package; studies and tests register more, for themselves."""
    return [entry.name for entry in SPACES.entries() if entry.factory.__module__.startswith("metanas_med.space.")]


def has_forms(name: str) -> bool:
    """Return whether a space has a native form, too."""
    kind = SPACES.entry(name).settings
    return kind is not None and "form" in kind.model_fields


def cases() -> list[Case]:
    """Return every space in every form and number of dimensions."""
    found = []
    for name in space_names():
        found += [Case(name, "house", dims) for dims in (3, 2)]
        if has_forms(name):
            found += [Case(name, "native", dims) for dims in NATIVE_DIMS.get(name, (3, 2))]
    return found
