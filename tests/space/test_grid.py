"""The grid space after MS-NAS, and the counts of Auto-DeepLab."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
import torch

from metanas_med.errors import CheckpointError, ConfigError
from metanas_med.space import (
    build_derived,
    cost,
    derive,
    expected_multiply_adds,
    genotype,
    genotype_multiply_adds,
    get_space,
    hash_genotype,
    neighbours,
    one_hot_alphas,
    random_genotype,
    random_genotype_of_cost,
    read_genotype,
    validate_genotype,
)
from metanas_med.space.auto_deeplab import count_cells, count_paths
from metanas_med.space.choice import Choice
from metanas_med.space.genotype import write_genotype
from metanas_med.space.grid import GridSettings, GridSpace
from metanas_med.space.grid.paths import best_path, draw_path, moves_at, row_of

from .papers import check_cost, check_one_hot

STRIDES = ((2, 2, 1), (2, 2, 2), (2, 2, 2))
SHAPE = (11, 9, 6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(dims: int = 3, **changes: Any) -> GridSettings:
    return GridSettings(**{"base_width": 2, "max_width": 5, "levels": 3, "layers": 4, "dims": dims, **changes})  # type: ignore[arg-type]


def randomise(body: torch.nn.Module, seed: int = 0) -> None:
    """Move norms and gains away from their start, so that a forgotten one shows."""
    with torch.no_grad():
        for name, value in body.state_dict().items():
            if value.ndim == 1 and not name.startswith("alphas."):
                value.add_(torch.empty(value.shape).uniform_(0.1, 0.5, generator=generator(seed)))


def test_counts_of_auto_deeplab() -> None:
    assert count_paths() == 28_657
    assert count_cells() == 556_627_761_561_600
    assert count_paths(3, 2) == len([p for p in itertools.product(range(2), repeat=2)])
    every = [(0, *rest) for rest in itertools.product(range(4), repeat=5)]
    assert count_paths(6, 4) == sum(all(abs(a - b) < 2 for a, b in zip(path, path[1:], strict=False)) for path in every)
    assert count_cells(1, 3) == 2 * 3 * 2 * 3


def test_the_decoded_path_is_the_most_probable_of_all() -> None:
    layers, levels = 5, 3
    every = [(0, *rest) for rest in itertools.product(range(levels), repeat=layers - 1)]
    legal = [path for path in every if all(abs(a - b) < 2 for a, b in zip(path, path[1:], strict=False))]
    assert len(legal) == count_paths(layers, levels)
    rows = dict(GridSpace(small(layers=layers)).rows())
    for seed in range(30):
        logs = {
            n: torch.randn(len(row.options), generator=generator(seed)).log_softmax(0) for n, row in rows.items() if "path" in n
        }

        def score(path: tuple[int, ...], logs: dict[str, torch.Tensor] = logs) -> float:
            changes = {"same": 0, "down": 1, "up": -1}
            return sum(
                float(logs[row_of((t, a))][[changes[m] for m in moves_at(a, levels)].index(b - a)])
                for t, (a, b) in enumerate(zip(path, path[1:], strict=False))
            )

        assert score(tuple(best_path(logs, layers, levels))) == pytest.approx(max(map(score, legal)), abs=1e-5)


def test_random_paths_are_uniform() -> None:
    rng = generator()
    draws = [tuple(draw_path(4, 3, rng)) for _ in range(1200)]
    counts = [draws.count(path) for path in set(draws)]
    expected = 1200 / count_paths(4, 3)
    assert len(counts) == count_paths(4, 3) and sum((n - expected) ** 2 / expected for n in counts) < 35  # 12 degrees


@pytest.mark.parametrize(("dims", "seed"), [(d, s) for d in (2, 3) for s in range(3)])
def test_soft_equals_discrete_at_one_hot_alphas(dims: int, seed: int) -> None:
    settings = small(dims, shared=seed != 1, cell_nodes=seed + 1)
    body = get_space(settings).build(None, generator(seed)).double()
    randomise(body, seed)
    chosen = random_genotype(settings, generator(seed))
    one_hot_alphas(body, chosen)
    assert genotype(body) == chosen == json.loads(json.dumps(chosen))
    derived = derive(body, chosen)
    assert genotype(derived) == chosen and not derived.alphas()
    assert derived.state_dict().keys() < body.state_dict().keys()
    assert all(value.shape == body.state_dict()[name].shape for name, value in derived.state_dict().items())
    x = torch.randn(2, 2, *SHAPE, generator=generator(seed), dtype=torch.float64)
    soft, hard = body(x, STRIDES), derived(x, STRIDES)
    for one, other in zip(soft, hard, strict=False):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert not any(rest.any() for rest in soft[len(hard) :])  # levels that the path does not come to
    again = build_derived(json.loads(json.dumps(chosen))).double()
    again.load_state_dict(derived.state_dict())
    assert torch.equal(again(x, STRIDES)[0], hard[0])


@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_at_odd_sizes_and_strides(dims: int) -> None:
    body = get_space(small(dims)).build(None, generator())
    for shape in ((9, 7, 5), (3, 5, 1), (1, 1, 1)):
        for strides in (STRIDES, ((1, 2, 1), (2, 1, 1))):
            features, size = body(torch.randn(2, 2, *shape, generator=generator()), strides), shape
            for level, (feature, width) in enumerate(zip(features, (2, 4, 5), strict=True)):
                if level:
                    step = (*strides[level - 1][:2], 1 if dims == 2 else strides[level - 1][2])
                    size = tuple(-(-n // s) for n, s in zip(size, step, strict=True))  # type: ignore[assignment]
                assert feature.shape == (2, width, *size) and feature.isfinite().all()


def test_every_parameter_has_a_gradient() -> None:
    body = get_space(small()).build(None, generator())
    body.init_alphas(generator(), 0.3)
    features = body(torch.randn(1, 2, 9, 8, 6, generator=generator()), STRIDES)
    sum(f.square().sum() + f.sum() for f in features).backward()  # type: ignore[union-attr]
    assert not [name for name, p in body.named_parameters() if p.grad is None or not p.grad.any()]
    assert {f"alphas.{row}" for row in body.rows()} == set(body.alphas())


@pytest.mark.parametrize("dims", [2, 3])
def test_costs(dims: int) -> None:
    settings = small(dims)
    for seed in range(3):
        chosen = random_genotype(settings, generator(seed))
        check_cost(settings, chosen)
        check_one_hot(settings, chosen)


def test_expected_cost_is_the_mean_over_architectures() -> None:
    settings = small(layers=3, levels=2, cell_nodes=1, candidates=("conv333", "conv111"))
    space, body = GridSpace(settings), get_space(settings).build(None)
    body.init_alphas(generator(), 0.8)
    p, mean = {name: row.detach() for name, row in body.probabilities().items()}, 0.0
    for moves in itertools.product(range(2), repeat=3):
        for operation in range(2):
            picks = dict(zip(("path0/level0", "path1/level0", "path1/level1"), moves, strict=True)) | {"cell/n0/s": operation}
            share = math.prod(float(p[row][option]) for row, option in picks.items())
            mean += share * cost(space.build(picks), SHAPE, STRIDES)["multiply_adds"]
    expected = expected_multiply_adds(body, SHAPE, STRIDES)
    assert expected.item() == pytest.approx(mean, rel=1e-5)
    expected.backward()
    assert all(row.grad is not None and row.grad.any() for row in body.alphas().values())


def test_random_genotypes_of_a_cost_leave_local_optima() -> None:
    """Edits change the cost of one shared cell so much that a walk can end where no edit is nearer."""
    settings = small(layers=3, levels=2, base_width=4, max_width=8, cell_nodes=1, candidates=("conv333", "dwsep333", "identity"))
    shape = (8, 8, 4)
    for seed in range(12):
        rng = generator(seed)
        target = genotype_multiply_adds(random_genotype(settings, rng), shape, STRIDES)
        found = random_genotype_of_cost(settings, target, 0.02, shape, STRIDES, rng, tries=300)
        assert abs(genotype_multiply_adds(found, shape, STRIDES) / target - 1) <= 0.02


def test_random_genotypes_are_legal() -> None:
    settings = small(layers=12, levels=4)
    space, rng = GridSpace(settings), generator()
    for _ in range(1000):
        picks = space.draw(rng)
        assert not space.reason_against(picks) and space.canonical(picks) == picks
    assert len(space.path(read_genotype(random_genotype(settings, rng))[1])) == 12


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_are_legal_and_one_edit_away(seed: int) -> None:
    settings = small(2)
    space, found = GridSpace(settings), random_genotype(settings, generator(seed))
    own, near = read_genotype(found)[1], list(neighbours(found))
    assert len({hash_genotype(other) for other in near} | {hash_genotype(found)}) == len(near) + 1
    paths = 0
    for other in near:
        picks = read_genotype(other)[1]
        changed = [a != b for a, b in zip(space.path(own), space.path(picks), strict=True)]
        operations = [row for row in own if row.startswith("cell") and own[row] != picks[row]]
        assert (sum(changed), len(operations)) in ((1, 0), (0, 1))
        paths += sum(changed)
    assert paths and len(near) - paths == 3 * 4


def test_one_path_runs_where_one_is_sampled() -> None:
    settings = small()
    body, space = get_space(settings).build(None, generator()), GridSpace(settings)
    picks = space.draw(generator(3))
    rows = {n: torch.zeros(len(r.options)).index_fill(0, torch.tensor(picks.get(n, 0)), 1.0) for n, r in body.rows().items()}
    choice = Choice(rows, active={name: (picks.get(name, 0),) for name in rows})
    ran: list[str] = []
    for name, module in body.named_modules():
        if type(module).__name__ == "GridCell":
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    body.choose = lambda: choice  # type: ignore[method-assign]
    x = torch.randn(1, 2, *SHAPE, generator=generator())
    soft = body(x, STRIDES)
    assert ran == [f"cells.layer{layer}_level{level}" for layer, level in enumerate(space.path(picks))]
    hard = derive(body, write_genotype(space, picks))(x, STRIDES)
    torch.testing.assert_close(soft[: len(hard)], hard, rtol=1e-5, atol=1e-5)


def test_what_is_not_possible_is_refused() -> None:
    found = random_genotype(small(), generator())
    with pytest.raises(ConfigError, match="layers"):
        validate_genotype(found, small(layers=5))
    with pytest.raises(CheckpointError, match="unknown option 'upp' of row 'path0/level0'"):
        read_genotype({**found, "picks": {**found["picks"], "path0/level0": "upp"}})
    with pytest.raises(ConfigError, match="p3d"):
        get_space(small(2, candidates=("p3d",)))
    named = small(candidates="nas-unet")
    picks = {**GridSpace(named).draw(generator()), "cell/n0/s": GridSpace(named).names.index("none")}
    with pytest.raises(ConfigError, match="grid: row 'cell/n0/s': none .* never chosen"):
        GridSpace(named).build(picks)


def test_a_candidate_of_zeros_is_never_chosen() -> None:
    settings = small(candidates="nas-unet", cell_nodes=1)
    body, space = get_space(settings).build(None, generator()), GridSpace(settings)
    with torch.no_grad():
        body.alphas()["alphas.cell/n0/s"][space.names.index("none")] = 5.0
    assert body(torch.randn(1, 2, *SHAPE), STRIDES)[0].isfinite().all()
    assert genotype(body)["picks"]["cell/n0/s"] != "none"
    drawn = {space.names[space.draw(generator(seed))["cell/n0/s"]] for seed in range(80)}
    assert drawn == {*space.names} - {"none"}
