"""Architectures as plain JSON: read off a supernet, drawn at random, checked, and set back as one-hot alphas.

``{"format": 1, "space": ..., "dims": 3, "depth": 4, "widths": [...], "settings": {...}, "skips": {"up0": true, ...},
"cells": {"down1": {"nodes": [{"inputs": {"s0": "conv333", "s1": "identity"}}, ...], "residual": true},
...}}``. Only what runs is written: cells of levels that were not chosen are absent, a node that nobody reads has no inputs,
and where a skip is off nothing reads s0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from ..errors import CheckpointError, ConfigError
from .plan import BodyPlan, CellPlan, UNetSupernetSettings, cell_names, pairs_of, rows_of, supernet_plan
from .registry import SPACES
from .settings import SpaceSettings

if TYPE_CHECKING:
    from .supernet import Supernet

FORMAT = 1
ONE_HOT = 1e4  #: a logit so far above 0 that its softmax is exactly 1, and the others' exactly 0, at any tau up to 90


def genotype(body: Supernet) -> dict[str, Any]:
    """Return the most probable option of every row of a supernet."""
    picks = {name: int(row.argmax()) for name, row in body.probabilities().items()}
    return genotype_of(body.settings, picks)


def hash_genotype(genotype: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits that tell what is built: cells, skips, dimensions and widths, not the space it was drawn from."""
    built = {key: genotype[key] for key in ("dims", "widths", "cells", "skips")}
    return hashlib.sha256(json.dumps(built, sort_keys=True).encode()).hexdigest()[:8]


def random_genotype(settings: UNetSupernetSettings, generator: torch.Generator | None = None) -> dict[str, Any]:
    """Return an architecture drawn uniformly: every option of every row is equally probable."""
    rows = rows_of(supernet_plan(settings))
    picks = {name: int(torch.randint(len(options), (), generator=generator)) for name, options in rows.items()}
    return genotype_of(settings, picks)


def genotype_of(settings: UNetSupernetSettings, picks: Mapping[str, int]) -> dict[str, Any]:
    """Return the genotype that takes option ``picks[row]`` of every row of the settings' search space."""
    plan = supernet_plan(settings)
    depth = picks["depth"] + 2 if plan.search_depth else plan.levels
    cells: dict[str, CellPlan] = {}
    for name in cell_names(depth):
        cell = plan.cells[name]
        nodes: list[dict[str, tuple[str, ...]]] = []
        for index, edges in enumerate(cell.nodes):
            row = f"{name}/n{index}/pair"
            chosen = pairs_of(list(edges))[picks[row]] if row in picks else tuple(edges)
            nodes.append({before: (edges[before][picks.get(f"{name}/n{index}/{before}", 0)],) for before in chosen})
        residual = bool(picks[f"{name}/residual"]) if cell.residual is None else cell.residual
        skip = picks[f"{name}/skip"] == 0 if cell.skip is None else cell.skip
        cells[name] = _only_live(replace(cell, nodes=tuple(nodes), residual=residual, skip=skip), depth)
    return {
        "format": FORMAT,
        "space": settings.name,
        "dims": plan.dims,
        "depth": depth,
        "widths": list(plan.widths[:depth]),
        "settings": settings.model_dump(mode="json"),
        "cells": {
            name: {
                "nodes": [{"inputs": {before: names[0] for before, names in edges.items()}} for edges in cell.nodes],
                "residual": bool(cell.residual),
            }
            for name, cell in cells.items()
        },
        "skips": {name: bool(cell.skip) for name, cell in cells.items() if cell.kind == "up"},
    }


def _only_live(cell: CellPlan, depth: int) -> CellPlan:
    """Return the cell without what gives nothing: edges from a skip that is off, nodes that nobody reads."""
    off = cell.skip is False
    nodes = [{before: names for before, names in edges.items() if not (off and before == "s0")} for edges in cell.nodes]
    residual = cell.residual and cell.first is not None and not (off and cell.first == "s0")
    live = {f"n{len(nodes) - 1}"}
    if residual or (cell.kind != "up" and cell.level + 1 < depth):  # the next encoder cell reads the first node, too
        live.add("n0")
    for index in range(len(nodes) - 1, -1, -1):
        if f"n{index}" in live:
            live.update(nodes[index])
    kept = tuple(edges if f"n{index}" in live else {} for index, edges in enumerate(nodes))
    return replace(cell, nodes=kept, residual=bool(residual))


def settings_of(genotype: Mapping[str, Any]) -> UNetSupernetSettings:
    """Return the settings of the space that a genotype was found in. Raises CheckpointError."""
    if genotype.get("format") != FORMAT:
        raise CheckpointError(
            f"genotype: expected format {FORMAT}, found {genotype.get('format')!r}; was it written by another version?"
        )
    try:
        return UNetSupernetSettings.model_validate(genotype.get("settings"))
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"genotype: settings {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def plan_of(genotype: Mapping[str, Any]) -> BodyPlan:
    """Return the plan of the network of a genotype: one candidate an edge. Raises CheckpointError where it is not sound."""
    full = supernet_plan(settings_of(genotype))
    depth = genotype.get("depth")
    depths = range(2, full.levels + 1) if full.search_depth else [full.levels]
    if not isinstance(depth, int) or depth not in depths:
        raise CheckpointError(f"genotype: depth {depth!r}, expected one of {list(depths)}")
    found = genotype.get("cells")
    skips = genotype.get("skips", {})
    names = cell_names(depth)
    if not isinstance(found, Mapping) or set(found) != set(names):
        raise CheckpointError(f"genotype: expected cells {names}, found {list(found) if isinstance(found, Mapping) else found!r}")
    cells = {name: _read_cell(full.cells[name], found[name], skips, depth) for name in names}
    return BodyPlan(full.dims, full.widths[:depth], cells)


def _read_cell(cell: CellPlan, found: Any, skips: Any, depth: int) -> CellPlan:
    try:
        inputs = [dict(node["inputs"]) for node in found["nodes"]]
        residual, skip = found["residual"], skips.get(cell.name, True)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"genotype: cell {cell.name} is malformed ({type(error).__name__}: {error})") from error
    if len(inputs) != len(cell.nodes):
        raise CheckpointError(f"genotype: cell {cell.name} has {len(inputs)} nodes, expected {len(cell.nodes)}")
    if not isinstance(residual, bool) or not isinstance(skip, bool) or (residual and cell.first is None):
        raise CheckpointError(f"genotype: cell {cell.name}: residual {residual!r} or skip {skip!r} is not possible there")
    for index, edges in enumerate(cell.nodes):
        for before, name in inputs[index].items():
            if name not in edges.get(before, ()):
                raise CheckpointError(
                    f"genotype: {cell.name}/n{index}: {name!r} from {before!r}, expected an input of {list(edges)} "
                    f"with one of {list(next(iter(edges.values())))}"
                )
    nodes = tuple({before: (name,) for before, name in edges.items()} for edges in inputs)
    chosen = _only_live(replace(cell, nodes=nodes, residual=residual, skip=skip, pairs=False), depth)
    alive = {before for edges in chosen.nodes for before in edges if before.startswith("n")} | {f"n{len(nodes) - 1}"}
    if chosen.residual and chosen.first == "n0" or cell.kind != "up" and cell.level + 1 < depth and len(nodes) > 1:
        alive.add("n0")
    for name in sorted(alive):
        if not chosen.nodes[int(name[1:])]:
            raise CheckpointError(f"genotype: {cell.name}/{name} is read by others but has no inputs")
    return chosen


def validate_genotype(genotype: Mapping[str, Any], settings: UNetSupernetSettings) -> None:
    """Raise ConfigError where the genotype is of another search space than ``settings``, CheckpointError where it is damaged."""
    own = settings_of(genotype)
    plan_of(genotype)
    for name, value in own.model_dump().items():
        if value != getattr(settings, name):
            raise ConfigError(
                f"the genotype was found with space.{name} = {value!r}, the network has {getattr(settings, name)!r}"
            )


def one_hot_alphas(body: Supernet, genotype: Mapping[str, Any]) -> None:
    """Set every row of a supernet to the genotype; rows that decide nothing there become uniform."""
    validate_genotype(genotype, body.settings)
    picks = _picks(body.rows(), genotype)
    with torch.no_grad():
        for name in body.rows():
            row = getattr(body.alphas, name)
            row.zero_()
            if name in picks:
                row[picks[name]] = ONE_HOT


def _picks(rows: Mapping[str, list[str]], genotype: Mapping[str, Any]) -> dict[str, int]:
    picks: dict[str, int] = {}
    for row, options in rows.items():
        if row == "depth":
            picks[row] = options.index(str(genotype["depth"]))
            continue
        cell, *place = row.split("/")
        if cell not in genotype["cells"]:
            continue
        if place == ["skip"]:
            picks[row] = 0 if genotype["skips"].get(cell, True) else 1
        elif place == ["residual"]:
            picks[row] = int(genotype["cells"][cell]["residual"])
        else:
            inputs = genotype["cells"][cell]["nodes"][int(place[0][1:])]["inputs"]
            if place[1] != "pair":
                if place[1] in inputs:
                    picks[row] = options.index(inputs[place[1]])
            elif inputs:  # one input alone: its brother was a skip that is off
                both = set(inputs) if len(inputs) > 1 else {"s0", *inputs}
                picks[row] = next(i for i, option in enumerate(options) if set(option.split("+")) == both)
    return picks


def read_space_settings(note: Mapping[str, Any]) -> SpaceSettings:
    """Return the settings of a search space from a note of any version.

    Older notes of every space held the settings of ``unet_supernet`` too; what a space does not have is dropped. Raises ConfigError for
    an unknown space, ValidationError for a value that is not possible.
    """
    kind = SPACES.entry(str(note.get("name"))).settings or SpaceSettings
    return kind.model_validate(
        {key: value for key, value in note.items() if key in kind.model_fields or key not in UNetSupernetSettings.model_fields}
    )
