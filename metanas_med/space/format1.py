"""Genotypes of format 1, which only the U-shaped space had: cells as nested lists of what runs.

``{"format": 1, "depth": 4, "settings": {...}, "skips": {"up0": true, ...}, "cells": {"down1": {"nodes": [{"inputs": {"s0": "conv333",
"s1": "identity"}}, ...], "residual": true}, ...}}``. A node that is not read has no inputs. Where a skip is off, nothing reads s0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from .base import Picks, Row
from .registry import get_space
from .settings import SpaceSettings
from .sketch import sketch


def read_format1(settings: SpaceSettings, found: Mapping[str, Any]) -> dict[str, int]:
    """Return the picks of a genotype of format 1, without rows that decide nothing. Raises CheckpointError where it is damaged."""
    rows: Mapping[str, Row] = get_space(settings).rows()
    cells, skips, depth = found.get("cells"), found.get("skips", {}), found.get("depth")
    if "depth" in rows and str(depth) not in rows["depth"].options:
        raise CheckpointError(f"genotype: depth {depth!r}, expected one of {list(rows['depth'].options)}")
    levels = range(depth) if isinstance(depth, int) else ()
    expected = {"enc0", *(f"down{level}" for level in levels[1:]), *(f"up{level}" for level in levels[:-1])}
    if not isinstance(cells, Mapping) or set(cells) != expected or not isinstance(skips, Mapping):
        raise CheckpointError(
            f"genotype: expected cells {sorted(expected)}, found {list(cells) if isinstance(cells, Mapping) else cells!r}"
        )
    picks: dict[str, int] = {}
    for row, (place, *rest) in ((row, row.split("/")) for row in rows):
        if place == "depth":
            picks[row] = rows[row].options.index(str(depth))
        elif place in cells:
            try:
                option = _option(rows[row].options, rest, cells[place], skips.get(place, True))
            except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
                raise CheckpointError(
                    f"genotype: row {row} of cell {place} cannot be read ({type(error).__name__}: {error})"
                ) from error
            if option is not None:
                picks[row] = option
    _check_runs(settings, picks, cells)
    return picks


def _check_runs(settings: SpaceSettings, picks: Picks, cells: Mapping[str, Any]) -> None:
    """Raise CheckpointError where what ``picks`` build is not what is written."""
    plan: Any = getattr(sketch(settings, picks).body, "plan", None)
    if plan is None:
        raise CheckpointError(f"genotype: format 1 was never written for {settings.name}")
    for name, cell in plan.cells.items():
        runs = [{before: names[0] for before, names in edges.items()} for edges in cell.nodes]
        given = [node["inputs"] for node in cells[name]["nodes"]]
        if runs != given:
            raise CheckpointError(f"genotype: cell {name} reads {given}; of those inputs and candidates only {runs} are possible")


def _option(options: tuple[str, ...], place: list[str], cell: Any, skip: Any) -> int | None:
    """Return the option of a row of a cell; None where the row decides nothing."""
    if place == ["skip"]:
        return [True, False].index(skip)
    if place == ["residual"]:
        return [False, True].index(cell["residual"])
    inputs = cell["nodes"][int(place[0][1:])]["inputs"]
    if place[1] != "pair":
        return options.index(inputs[place[1]]) if place[1] in inputs else None
    if not inputs:
        return None
    both = set(inputs) if len(inputs) > 1 else {"s0", *inputs}  # one input alone: the other was a skip that is off
    return next(index for index, option in enumerate(options) if set(option.split("+")) == both)
