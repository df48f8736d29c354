"""The candidate sets of the literature by name: ``space.candidates: darts`` takes one in any space of cells.

A set also names the operations that only coarse levels offer. What a paper leaves open, and what could not be read, is in its note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from ..errors import ConfigError
from ..registry import Registry, import_parts
from . import blocks
from .base import Picks, Row
from .blocks.operations import CANDIDATES, candidate_kind
from .settings import SpaceSettings

import_parts(blocks.__name__, blocks.__path__)  # a set names registered operations only

#: The candidate that is an edge of zeros. It takes weight from the others and is no part of an architecture.
NONE = "none"


def flat_names(names: Sequence[str], dims: int) -> tuple[str, ...]:
    """Return the candidates by the names of their 2D forms where ``dims`` is 2: each once, and ``none`` last.

    Rows that a genotype leaves out take their first option, which ``none`` must never be. ConfigError for an unknown name, and
    where no operation is left.
    """
    kinds = {name: candidate_kind(name) for name in names}
    found = dict.fromkeys(kind.flat if dims == 2 else name for name, kind in kinds.items())
    chosen = [name for name in found if name and name != NONE]
    if not chosen:
        raise ConfigError(f"no candidate is left of {list(names)} in {dims}D: an edge needs an operation")
    return (*chosen, NONE) if NONE in found else tuple(chosen)


def real_options(options: Sequence[str]) -> list[int]:
    """Return the options of a row that may be chosen: all but ``none``."""
    return [index for index, name in enumerate(options) if name != NONE]


def choosable(row: Row) -> list[int]:
    """Return the options of a row that an architecture may have: of operations, all but ``none``."""
    return real_options(row.options) if row.type == "one" else list(range(len(row.options)))


def best_option(options: Sequence[str], p: Tensor) -> int:
    """Return the most probable option of a row, of those that may be chosen."""
    if NONE not in options:
        return int(p.argmax())
    real = real_options(options)
    return real[int(p[real].argmax())]


def draw_real(rows: Mapping[str, Row], generator: torch.Generator | None = None) -> dict[str, int]:
    """Return one option of every row, each drawn uniformly of those that may be chosen."""
    found = {}
    for name, row in rows.items():
        real = choosable(row)
        found[name] = real[int(torch.randint(len(real), (), generator=generator))]
    return found


def reason_against_none(rows: Mapping[str, Row], picks: Picks) -> str:
    """Return why ``picks`` are no architecture: an edge that does nothing; empty if there is none."""
    for name, option in picks.items():
        if rows[name].type == "one" and rows[name].options[option] == NONE:
            return f"row {name!r}: {NONE} only takes weight from other operations and is never chosen; choose another"
    return ""


@dataclass(frozen=True)
class CandidateSet:
    """The operations of a set; those of ``coarse`` are offered at the ``coarse_levels`` coarsest levels alone."""

    candidates: tuple[str, ...]
    coarse: tuple[str, ...] = ()
    coarse_levels: int = 0  #: 0: ``space.coarse_from`` says at which

    def __call__(self) -> CandidateSet:
        """Return itself: what a registry hands out is made by a call."""
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """All operations."""
        return (*self.candidates, *self.coarse)


CANDIDATE_SETS: Registry[CandidateSet] = Registry("candidate set")


def register_candidate_set(name: str, found: CandidateSet, source: str, note: str = "") -> None:
    """Register a set; ``note`` says what could not be read. ConfigError where an operation is unknown."""
    merge = [name for name in found.names if candidate_kind(name).kind.merges]
    alone = [name for name in found.names if name not in merge]
    costs = "; ".join(f"{what}: {', '.join(names)}" for what, names in (("merge", merge), ("run alone", alone)) if names)
    about = ", ".join(found.candidates)
    if found.coarse:
        levels = f"the {found.coarse_levels} coarsest levels" if found.coarse_levels else "coarse levels"
        about += f"; at {levels} also {', '.join(found.coarse)}"
    object.__setattr__(found, "__doc__", about)  # what a list of sets shows
    CANDIDATE_SETS.register(name, source=source, costs=costs, note=note)(found)


def candidate_set(name: str) -> CandidateSet:
    """Return a registered set; ConfigError, with the closest name, where it is unknown."""
    return CANDIDATE_SETS.build(name)


class CellSettings(SpaceSettings):
    """Settings of a space of cells: the name of a set in ``candidates`` becomes its operations.

    A set also decides ``coarse_candidates`` and ``coarse_from``, where the space has them and they are not set to other values than
    their defaults. Settings that are written hold the operations, never the name.
    """

    own_values = frozenset({"candidates", "coarse_candidates", "coarse_from"})

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("candidates"), str):
            return values
        return {**values, **cls.of_set(values["candidates"], values)}

    @classmethod
    def of_set(cls, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that the set ``name`` decides; ``given`` are all values as they were read."""
        if name in CANDIDATES.names() and name not in CANDIDATE_SETS.names():
            return {}  # one operation: the error about its type says that a list is expected
        try:
            found = candidate_set(name)
        except ConfigError as error:
            raise PydanticCustomError("unknown_part", "candidates: {reason}", {"reason": str(error)}) from error
        decided: dict[str, Any] = {"candidates": found.candidates, "coarse_candidates": found.coarse}
        if found.coarse_levels:
            levels = given.get("levels", cls.model_fields["levels"].default)
            decided["coarse_from"] = max(0, int(levels) - found.coarse_levels)
        return {key: value for key, value in decided.items() if key == "candidates" or cls._open(key, given)}

    @classmethod
    def _open(cls, key: str, given: Mapping[str, Any]) -> bool:
        """Return whether the space has the setting ``key``, with its default."""
        if key not in cls.model_fields:
            return False
        default = cls.model_fields[key].default
        value = given.get(key, default)
        return (tuple(value) if isinstance(value, list | tuple) else value) == default


#: Candidates that are linear, stay inside 3x3x3 and are merged into one convolution (operations.py).
MERGED = ("conv333", "conv331", "conv313", "conv133", "p3d", "conv111", "dwsep333", "identity")
#: Candidates that weights of a 3x3x3 kernel cannot imitate; each runs by itself, at coarse levels only.
UNMERGED = ("dilated333", "max_pool", "avg_pool")
_SEPARABLE = ("sep_conv3", "sep_conv5", "dil_conv3", "dil_conv5")

register_candidate_set("merged", CandidateSet(MERGED, UNMERGED), "ours: linear operations, others at coarse levels")
register_candidate_set(
    "nas-unet",
    CandidateSet(("identity", "cweight", "dil_act", "dep_act", "conv_act", "max_pool", "avg_pool", NONE)),
    "Weng et al. 2019, IEEE Access",
    "its three lists in one, without shuffle_act, which is conv_act there; pools 3x3x3. The space nas_unet has the lists",
)
register_candidate_set(
    "darts",
    CandidateSet(("max_pool", "avg_pool", "identity", *_SEPARABLE, NONE)),
    "Liu et al. 2018, arXiv 1806.09055",
    "norms are instance norms; a strided identity takes every stride-th voxel",
)
register_candidate_set(
    "dints",
    CandidateSet(("identity", "act_conv3", "act_p3d_xy", "act_p3d_xz", "act_p3d_yz")),
    "He et al. 2021, arXiv 2103.15954",
    "in 2D identity and act_conv3",
)
register_candidate_set(
    "csmri",
    CandidateSet(("identity", "sep_conv3", "dil_conv3", "dil_conv3_rate3", NONE)),
    "NAS for compressed-sensing MRI, arXiv 2002.09625",
    "names and rates were read; the order of ReLU, convolutions and norm is that of DARTS",
)
register_candidate_set(
    "marl10",
    CandidateSet(
        ("identity", "act_conv3", "act_conv5", "dil_conv3", "dil_conv5", "sep_conv3", "sep_conv5", "max_pool", "avg_pool", NONE)
    ),
    "MARL for ultrasound, arXiv 2007.15273",
    "the list is from memory, the paper could not be opened; operations in the form of DARTS",
)
register_candidate_set(
    "after-elixirnet",
    CandidateSet(("identity", "conv111", *_SEPARABLE, "avg_pool", NONE), ("non_local",), 2),
    "after ElixirNet, arXiv 2003.08770",
    "its list could not be read: nine operations with a non-local one, as the paper counts them",
)
register_candidate_set(
    "after-emr",
    CandidateSet(tuple(f"dense{n}_{growth}{tail}" for n in (2, 3) for growth in ("quarter", "half") for tail in ("", "_dil"))),
    "after EMR-NAS, arXiv 2008.08248",
    "its table could not be read: eight dense blocks of 2 or 3 layers, growth 1/4 or 1/2, without and with dilation",
)
