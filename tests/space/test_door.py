"""The door: a file that adds a whole search space, and one that adds a candidate; all that works for every space works for them."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from metanas_med.engine.phases import features_around
from metanas_med.errors import CheckpointError
from metanas_med.registry import Registry, import_parts
from metanas_med.report.genotype import draw_architecture
from metanas_med.space import (
    CANDIDATES,
    SPACES,
    UNetSupernetSettings,
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
    outline,
    random_genotype,
    random_genotype_of_cost,
    read_genotype,
    read_space_settings,
    supernet_multiply_adds,
)

SHAPE, STRIDES = (8, 6, 4), ((2, 2, 1), (2, 2, 2))
HERE = Path(__file__).parent


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str, str, Registry[Any]], None]]:
    """``added(name, package, registry)`` puts the file ``name.py`` of this folder into a package, for one test."""
    names: list[str] = []

    def add(name: str, package: str, registry: Registry[Any]) -> None:
        room: ModuleType = importlib.import_module(package)
        shutil.copy(HERE / f"{name}.py", tmp_path)
        monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
        kept.enter_context(registry.extended())
        names.append(f"{package}.{name}")
        import_parts(package, room.__path__)

    with ExitStack() as kept:
        yield add
    for name in names:
        package, _, last = name.rpartition(".")
        sys.modules.pop(name, None)
        sys.modules[package].__dict__.pop(last, None)


@pytest.fixture
def chain(added: Callable[..., None]) -> None:
    added("chain", "metanas_med.space", SPACES)


@pytest.mark.parametrize("name", ["chain", "activated"])
def test_a_part_is_one_short_file(name: str) -> None:
    assert len((HERE / f"{name}.py").read_text().splitlines()) < 50


@pytest.mark.usefixtures("chain")
@pytest.mark.parametrize("dims", [2, 3])
def test_what_works_for_every_space_works_for_a_new_one(dims: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    settings = read_space_settings({"name": "chain", "dims": dims, "base_width": 2, "max_width": 8, "levels": 3})
    body = get_space(settings).build(None, generator)
    chosen = random_genotype(settings, generator)
    assert read_genotype(json.loads(json.dumps(chosen))) == read_genotype(chosen)

    one_hot_alphas(body, chosen)
    derived, x = derive(body, chosen), torch.randn(1, 2, *SHAPE, generator=generator)
    assert genotype(body) == genotype(derived) == chosen and not derived.alphas() and derived.picks == read_genotype(chosen)[1]
    for one, other in zip(body(x, STRIDES), derived(x, STRIDES), strict=True):
        torch.testing.assert_close(one, other)
    assert build_derived(chosen).state_dict().keys() == derived.state_dict().keys() < body.state_dict().keys()

    near = list(neighbours(chosen))
    assert len(near) == 2 and len({hash_genotype(found) for found in (chosen, *near)}) == 3
    with pytest.raises(CheckpointError, match="did you mean 'conv333'"):
        read_genotype({**chosen, "picks": {"chain/op": "conv33"}})

    taps = {"conv333": 9 if dims == 2 else 27, "conv111": 1}
    # sizes (8, 6, 4), (4, 3, 4) and then (2, 2, 2); in 2D the last axis is never strided
    voxels, widths = (192, 48, 16 if dims == 2 else 8), (2, 2, 4, 8)
    costs = {op: sum(widths[k] * widths[k + 1] * voxels[k] * taps[op] for k in range(3)) for op in taps}
    for op, total in costs.items():
        assert genotype_multiply_adds({**chosen, "picks": {"chain/op": op}}, SHAPE, STRIDES) == total
    found = cost(derived, SHAPE, STRIDES)
    assert found["multiply_adds"] == genotype_multiply_adds(chosen, SHAPE, STRIDES)
    assert found["parameters"] == sum(p.numel() for p in derived.parameters())
    every = [genotype_multiply_adds(found, SHAPE, STRIDES) for found in (chosen, *near)]
    assert supernet_multiply_adds(settings, SHAPE, STRIDES) == sum(every)  # it runs all three
    assert expected_multiply_adds(body, SHAPE, STRIDES).item() == every[0]
    body.init_alphas(generator, 0.0)
    expected = expected_multiply_adds(body, SHAPE, STRIDES)
    assert expected.item() == pytest.approx(sum(every) / 3)
    expected.backward()
    assert body.alphas()["alphas.chain/op"].grad is not None
    near_cost = random_genotype_of_cost(settings, every[1], 0.01, SHAPE, STRIDES, generator)
    assert hash_genotype(near_cost) == hash_genotype(near[0])

    draw_architecture(tmp_path / "chain.svg", asdict(outline(chosen)))
    drawing = (tmp_path / "chain.svg").read_text()
    assert f"op = {chosen['picks']['chain/op']}" in drawing and f"chain, {dims}D" in drawing


@pytest.mark.usefixtures("chain")
def test_a_new_space_is_trained_adapted_and_used(tiny_settings: Callable[..., Any], phantoms: Path, tmp_path: Path) -> None:
    from metanas_med import AdaptSettings, Model, adapt, meta_train, predict
    from metanas_med.engine.meta_run import MetaRun
    from metanas_med.engine.support import open_dataset

    settings = tiny_settings(**{"space.name": "chain", "meta.iterations": 2, "phases": features_around(0.5, 0.0)})
    meta_train(settings, tmp_path / "meta")
    run = MetaRun.load(tmp_path / "meta")
    assert run.settings == settings.model_copy(update={"cache": "cache"}) and set(run.state.alphas) == {"body.alphas.chain/op"}
    dataset = open_dataset(Path(settings.cache) / "Phantom01_Bean.h5")
    note = adapt(run, dataset, tmp_path / "model", AdaptSettings(shots=2, steps=2))
    model = Model.load(tmp_path / "model", "cpu")
    assert model.genotype == note["report"]["genotype"] and model.net.body.picks == read_genotype(model.genotype)[1]
    scan = sorted((phantoms / "Phantom01_Bean" / "imagesTr").iterdir())[0]
    assert predict(model, [scan], tmp_path / "out")[0].exists()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_new_candidate_is_named_by_a_space_of_cells(dims: int, added: Callable[..., None]) -> None:
    added("activated", "metanas_med.space.blocks", CANDIDATES)
    generator = torch.Generator().manual_seed(0)
    settings = UNetSupernetSettings(
        dims=dims,  # type: ignore[arg-type]
        base_width=2,
        max_width=8,
        levels=3,
        candidates=("conv333", "conv331", "silu333"),
        coarse_candidates=(),
    )
    body = get_space(settings).build(None, generator)
    own = "silu331" if dims == 2 else "silu333"
    assert own in body.rows()["enc0/n0/s0"].options
    chosen = random_genotype(settings, generator)
    chosen["picks"]["enc0/n0/s0"] = own
    one_hot_alphas(body, chosen)
    derived, x = derive(body, chosen), torch.randn(1, 2, *SHAPE, generator=generator)
    for one, other in zip(body(x, STRIDES), derived(x, STRIDES), strict=True):
        torch.testing.assert_close(one, other)
    plain = {**chosen, "picks": {**chosen["picks"], "enc0/n0/s0": "conv331" if dims == 2 else "conv333"}}
    assert genotype_multiply_adds(chosen, SHAPE, STRIDES) == genotype_multiply_adds(plain, SHAPE, STRIDES)
    expected = expected_multiply_adds(body, SHAPE, STRIDES).item()
    assert expected == pytest.approx(genotype_multiply_adds(chosen, SHAPE, STRIDES), rel=1e-6)
