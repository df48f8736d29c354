"""The architectures that are compared: drawn from one seed, all distinct, and described without any scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ...errors import ConfigError
from ...search import RandomSearch, RandomSettings
from ...space import (
    SpaceSettings,
    UNetSupernetSettings,
    build_derived,
    genotype_multiply_adds,
    hash_genotype,
    read_genotype,
)
from ...space.blocks.cell import CellPlan
from ...space.blocks.operations import candidate_kind
from ...space.unet_plan import BodyPlan
from .settings import UnnasSettings

#: consecutive draws without a new architecture after which the space counts as exhausted
_TRIES = 1000


@dataclass(frozen=True)
class Architecture:
    """One architecture and its cost on a cube of ``plan.view_voxels`` voxels, with axes halved at each level."""

    number: int
    genotype: Mapping[str, Any]
    levels: int
    base_width: int
    parameters: int  #: of the body
    multiply_adds: int  #: of the body, one view
    receptive_field: float  #: voxels at full resolution, geometric mean of the axes

    @property
    def hash(self) -> str:
        """Return a short hash of the genotype, which does not depend on earlier draws."""
        return hash_genotype(self.genotype)

    @property
    def space(self) -> SpaceSettings:
        return read_genotype(self.genotype)[0]


def draw_architectures(settings: UnnasSettings) -> list[Architecture]:
    """Return ``num_architectures`` distinct architectures; a longer list starts with the shorter one of the same settings.

    Levels, width and genotype are drawn uniformly, in that order. ConfigError where the space holds too few.
    """
    if not settings.levels or not settings.base_widths or min(settings.levels) < 2 or min(settings.base_widths) < 1:
        raise ConfigError(
            f"levels {list(settings.levels)}, base_widths {list(settings.base_widths)}: expected levels from 2, widths from 1"
        )
    return list(_draw(settings.num_architectures, settings.seed, settings.levels, settings.base_widths, *_space_of(settings)))


def _space_of(settings: UnnasSettings) -> tuple[str, int]:
    return settings.space.model_dump_json(), settings.plan.view_voxels


@lru_cache(maxsize=4)
def _draw(
    number: int, seed: int, levels: tuple[int, ...], widths: tuple[int, ...], space_json: str, view_voxels: int
) -> tuple[Architecture, ...]:
    space = UNetSupernetSettings.model_validate_json(space_json)
    generator, torch_rng = np.random.default_rng([seed, 51]), torch.Generator().manual_seed(seed)
    searches: dict[tuple[int, int], RandomSearch] = {}
    found: list[Architecture] = []
    while len(found) < number:
        own = (int(generator.choice(levels)), int(generator.choice(widths)))
        if own not in searches:
            its = space.model_copy(update={"levels": own[0], "base_width": own[1], "search_depth": False})
            searches[own] = RandomSearch(RandomSettings(tries=_TRIES), its)
        try:
            candidate = searches[own].ask(torch_rng)
        except ConfigError as error:
            raise ConfigError(
                f"num_architectures: the space holds no more than about {len(found)} architectures, expected {number}. Lower "
                "num_architectures, or widen the space."
            ) from error
        found.append(describe(len(found), candidate.genotype or {}, view_voxels))
    return tuple(found)


def describe(number: int, genotype: Mapping[str, Any], view_voxels: int) -> Architecture:
    """Return the architecture of a genotype with its cost and its receptive field."""
    space = read_genotype(genotype)[0]
    side = max(round(view_voxels ** (1 / 3)), 1)
    strides = [(2, 2, 2 if space.dims == 3 else 1)] * (space.levels - 1)
    return Architecture(
        number,
        genotype,
        space.levels,
        space.base_width,
        sum(p.numel() for p in build_derived(genotype).weights().values()),
        genotype_multiply_adds(genotype, (side,) * 3, strides),
        float(np.prod(receptive_field(genotype)) ** (1 / 3)),
    )


def receptive_field(genotype: Mapping[str, Any]) -> np.ndarray:
    """Return how many voxels (3,) along each axis a voxel of the finest feature sees through convolutions and pools.

    Axes are halved at each level. The stem counts; up-sampling and the statistics of norms do not.
    """
    plan: BodyPlan = build_derived(genotype).plan  # type: ignore[assignment]
    flat = plan.dims == 2
    step = np.array([2.0, 2.0, 1.0 if flat else 2.0])
    stem = np.array([1.0, 1.0, 0.0 if flat else 1.0])
    inputs, encoded = {"s0": stem}, []
    for level in range(plan.levels):
        name = f"down{level}" if level else "enc0"
        out, first = _cell_reach(plan, plan.cells[name], inputs, step ** max(level - 1, 0), step**level)
        inputs = {"s0": out, "s1": first if first is not None else inputs["s0"]}
        encoded.append(out)
    reach = encoded[-1]
    for level in range(plan.levels - 2, -1, -1):
        out, _ = _cell_reach(plan, plan.cells[f"up{level}"], {"s0": encoded[level], "s1": reach}, step**level, step**level)
        reach = out
    return 1 + 2 * reach


def _cell_reach(
    plan: BodyPlan, cell: CellPlan, inputs: Mapping[str, np.ndarray], grid: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the reach (3,), in voxels to one side, of a cell's output and of its first node (None for a cell of one node).

    ``grid``: voxels between neighbours in the cell's inputs; ``own``: in its nodes.
    """
    found = dict(inputs)
    for index, edges in enumerate(cell.nodes):
        parts = []
        for before, names in edges.items():
            size = candidate_kind(names[0]).size_in(plan.dims)
            # a dilated kernel leaves out every second voxel
            radius = np.array([n // 2 for n in size]) * (2 if "dilated" in names[0] else 1)
            parts.append(found[before] + radius * (grid if before in inputs else own))
        found[f"n{index}"] = np.max(parts, axis=0) if parts else np.zeros(3)
    out = found[f"n{len(cell.nodes) - 1}"]
    if cell.residual and cell.first:
        out = np.maximum(out, found[cell.first])
    return out, (found["n0"] if len(cell.nodes) > 1 else None)
