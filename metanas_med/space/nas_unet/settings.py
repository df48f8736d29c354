"""The settings of NAS-Unet's space, and its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from ...errors import ConfigError
from ..base import Row
from ..candidate_sets import NONE, CellSettings, flat_names
from ..choice import pairs_of
from ..native import FormSettings
from .native import NATIVE

Kind = Literal["down", "up"]
KINDS: tuple[Kind, Kind] = ("down", "up")

#: the authors' three lists; ``none`` is last
NORMAL = ("identity", "cweight", "dil_act", "dep_act", "shuffle_act", "conv_act", NONE)
DOWN = ("avg_pool_stride", "max_pool_stride", "cweight_conv", "dil_act", "dep_act", "conv_act")
UP = ("up_cweight", "up_dep_conv", "up_conv", "up_dil_conv")


class NasUnetSettings(FormSettings, CellSettings):
    """NAS-Unet. The features of a level have ``num_nodes`` times its width: nodes are concatenated.

    In the native form ``base_width`` is the authors' c at all levels, ``max_width`` is not read, and ``levels`` is their depth + 2.
    """

    name: str = "nas_unet"
    levels: int = Field(default=4, ge=2, le=8)  #: resolutions, the full one included; native: the authors' depth + 2
    num_nodes: int = Field(default=3, ge=1, le=8)  #: nodes of a cell
    candidates: tuple[str, ...] = Field(default=NORMAL, max_length=64)  #: of edges that keep the size, or the name of a set
    down_candidates: tuple[str, ...] = Field(default=DOWN, max_length=64)  #: of edges into a down cell
    up_candidates: tuple[str, ...] = Field(default=UP, max_length=64)  #: of the edges from the level below an up cell
    edge_weights: bool = False  #: weigh the inputs of a node, too (PC-DARTS)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each feature, finest first."""
        if self.form == "native":
            return (self.num_nodes * self.base_width,)
        return tuple(self.num_nodes * width for width in super().widths)

    @classmethod
    def of_set(cls, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the three lists of a set: ``nas-unet`` has its own, others are offered at all edges, at every level."""
        if name == "nas-unet":
            return {"candidates": NORMAL}
        found = super().of_set(name, given)
        lists = {key: found["candidates"] for key in ("down_candidates", "up_candidates") if found and cls._open(key, given)}
        return {**found, **lists}


def inputs_of(node: int) -> list[str]:
    """Return what node number ``node`` may read: the two inputs of its cell, and the nodes before it."""
    return ["s0", "s1", *(f"n{index}" for index in range(node))]


def edge_names(settings: NasUnetSettings, kind: Kind, before: str) -> tuple[str, ...]:
    """Return the operations of an edge. ConfigError for an unknown one, and for one that the native form does not have."""
    names = settings.candidates
    if kind == "down" and before in ("s0", "s1"):
        names = settings.down_candidates
    elif kind == "up" and before == "s1":
        names = settings.up_candidates
    if settings.form == "native":
        for name in names:
            if name not in NATIVE:
                raise ConfigError(
                    f"space.form native has the authors' operations, found {name!r}, expected some of {sorted(NATIVE)}; "
                    "leave the candidates out, or set space.form house"
                )
    return flat_names(names, settings.dims)


def rows_of(settings: NasUnetSettings) -> dict[str, Row]:
    """Return every row by name: ``down/n1/s0`` operations of an edge, ``down/n1/pair`` the two inputs of a node."""
    rows: dict[str, Row] = {}
    for kind in KINDS:
        for node in range(settings.num_nodes):
            inputs = inputs_of(node)
            for before in inputs:
                names = edge_names(settings, kind, before)
                if len(names) > 1:
                    rows[f"{kind}/n{node}/{before}"] = Row(names)
            if len(inputs) > 2:
                rows[f"{kind}/n{node}/pair"] = Row(tuple("+".join(pair) for pair in pairs_of(inputs)), "pair")
    return rows


def edge_weight_rows(settings: NasUnetSettings) -> dict[str, tuple[str, ...]]:
    """Return the inputs of every node by the name of the row that weighs them."""
    return {f"{kind}/n{node}/edges": tuple(inputs_of(node)) for kind in KINDS for node in range(settings.num_nodes)}
