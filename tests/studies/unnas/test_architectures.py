"""The architectures of the study: distinct, valid, and described correctly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from metanas_med.errors import ConfigError
from metanas_med.space import UNetSupernetSettings, build_derived, random_genotype, validate_genotype
from metanas_med.space.blocks.norm import Norm
from metanas_med.studies.unnas.architectures import describe, draw_architectures, receptive_field
from metanas_med.studies.unnas.cells import Cell, grid

from .made_up import Make, shipped


def test_the_shipped_architectures_are_distinct_sound_and_different() -> None:
    settings = shipped()
    found = draw_architectures(settings)
    assert len(found) == len({a.hash for a in found}) == 60
    assert [a.number for a in found] == list(range(60))
    for a in found:
        validate_genotype(a.genotype, a.space)
        assert (a.genotype["space"]["levels"], a.genotype["space"]["base_width"]) == (a.levels, a.base_width)
    for part in ("levels", "base_width"):
        assert {getattr(a, part) for a in found} == {2, 3, 4} if part == "levels" else {4, 8, 16}
    for part in ("multiply_adds", "receptive_field"):
        values = [getattr(a, part) for a in found]
        assert max(values) > 5 * min(values)
    names = json.dumps([a.genotype["picks"] for a in found])
    assert "dilated333" in names and "max_pool" in names
    longer = draw_architectures(settings.model_copy(update={"num_architectures": 62}))
    assert longer[:60] == found
    other = draw_architectures(settings.model_copy(update={"seed": 1}))
    assert {a.hash for a in other} != {a.hash for a in found}
    assert len(grid(settings)) == len({c.name for c in grid(settings)}) == 60 * 7


def test_a_space_that_is_too_small_is_refused(make: Make) -> None:
    space = {"max_width": 4, "nodes": [1], "candidates": ["conv111"], "coarse_candidates": [], "search_residual": False}
    with pytest.raises(ConfigError, match=r"no more than about \d+ architectures, expected 50"):
        draw_architectures(make(space=space, levels=[2], base_widths=[2], num_architectures=50))
    with pytest.raises(ConfigError, match="expected levels from 2"):
        draw_architectures(make(levels=[1]))


@pytest.mark.parametrize("levels, size", [(2, 32), (3, 44)])
def test_the_receptive_field_is_where_gradients_come_from(levels: int, size: int) -> None:
    """Without norms and with positive kernels every path carries gradient; max pools, which choose one voxel, are left out."""
    settings = UNetSupernetSettings(
        levels=levels, base_width=1, coarse_from=1, coarse_candidates=("dilated333", "avg_pool"), search_depth=False
    )
    fields = []
    for seed in range(5):
        genotype = random_genotype(settings, torch.Generator().manual_seed(seed))
        body = build_derived(genotype)
        for part in body.modules():
            if isinstance(part, Norm):
                part.forward = lambda x: x
        for p in body.parameters():
            p.data.fill_(1.0)
        x = torch.ones(1, body.widths[0], size, size, size, requires_grad=True)
        body(x, [(2, 2, 2)] * (levels - 1))[0][0, :, size // 2, size // 2, size // 2].sum().backward()
        assert x.grad is not None
        seen = np.argwhere(x.grad[0].sum(0).numpy() != 0)
        extent = seen.max(0) - seen.min(0) + 1
        expected = receptive_field(genotype) - 2  # the stem's
        # a voxel is not in the centre of the coarse voxel that it reads
        assert np.abs(extent - expected).max() <= 2**levels, (genotype, extent, expected)
        fields.append(expected.max())
    assert max(fields) > min(fields) + 2**levels


def test_the_hash_of_an_architecture_depends_on_what_is_built_alone() -> None:
    one = random_genotype(UNetSupernetSettings(levels=2, base_width=4, max_width=8), torch.Generator().manual_seed(0))
    other = {**one, "space": {**one["space"], "max_width": 64}}
    assert describe(0, one, 1000).hash == describe(0, other, 1000).hash
    assert Cell(3, "abcd", "labels", 1).name == "a003-abcd-labels-seed1"
