"""The predicted memory of a training step, against what torch saves and what a process takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas_med.data.plan import stride_schedule
from metanas_med.engine import memory
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.memory import GIB, Need, Step, learner_need, saved_bytes, sketch_of, step_need
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import meta_train
from metanas_med.engine.phases import features_around
from metanas_med.engine.settings import Settings
from metanas_med.engine.state import build_network
from metanas_med.errors import ConfigError
from metanas_med.learner import Runtime
from metanas_med.learner.relaxations import start_relaxed
from metanas_med.learner.runtime import cpu_bfloat16
from metanas_med.space import SpaceSettings, UNetSupernetSettings
from metanas_med.space.settings import SpaceSettings as AnySpace
from metanas_med.studies.bench.step import stored_bytes

FLOAT32 = Runtime(bfloat16=False)
BFLOAT16 = replace(FLOAT32, bfloat16=True)


def small(**changes: Any) -> SpaceSettings:
    return UNetSupernetSettings(base_width=4, max_width=16, levels=3, **changes)


#: without such instructions convolutions return maps of another memory format, and a runtime does not choose bfloat16
BY_PROCESSOR = pytest.param(
    BFLOAT16, id="bfloat16", marks=pytest.mark.skipif(not cpu_bfloat16(), reason="no bfloat16 instructions")
)


@pytest.mark.parametrize("runtime", [pytest.param(FLOAT32, id="float32"), BY_PROCESSOR])
@pytest.mark.parametrize("view", [(16, 16, 16), (24, 20, 6), (12, 10, 2)])
@pytest.mark.parametrize("space", [small(), small(dims=2), small(search_depth=True)], ids=["3D", "2D", "depth"])
def test_activations_are_those_that_torch_saves(runtime: Runtime, view: tuple[int, int, int], space: AnySpace) -> None:
    net = build_network(space, 0)
    net.body.relax(start_relaxed(Settings().adapt))
    net.start_task(2, 3)
    strides = stride_schedule(view, (1.0, 1.0, 2.0), space.levels)
    images = runtime.place(torch.randn(2, 2, *view))
    coords = torch.rand(2, 3, *view)

    def forward(model: Any, images: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
        with runtime.autocast():
            return model(images, coords, strides)

    real = stored_bytes(lambda: forward(net, images, coords), [*net.parameters(), *net.buffers(), images, coords])
    sketched = step_need(sketch_of(net), Step(view, strides, 2, 2, 3), runtime)
    inputs = 3 * 4 * (images.numel() + coords.numel())
    loss = 3 * 4 * (4 * images[:, 0].numel())  # three maps of four classes
    assert 0.97 * real < sketched.activations - inputs - loss < 1.1 * real


def test_a_sketch_holds_no_memory_and_changes_nothing() -> None:
    net = build_network(small(), 0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    sketch = sketch_of(net)
    assert all(p.is_meta for p in [*sketch.parameters(), *sketch.buffers()])
    assert [n for n, _ in sketch.named_parameters()] == [n for n, _ in net.named_parameters()]
    state = torch.get_rng_state()
    step_need(sketch, Step((16, 16, 16), ((2, 2, 2), (2, 2, 2)), 2), FLOAT32)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_what_is_saved_twice_counts_once() -> None:
    x = torch.ones(1000, requires_grad=True)
    assert saved_bytes(lambda: (x * x).sum(), [x]) == 0 and saved_bytes(lambda: (x * x).sum()) == 4000
    assert saved_bytes(lambda: (x.exp() * x.exp()).sum(), [x]) == 8000


def test_the_shipped_defaults_need_far_less_than_4_gib() -> None:
    settings = Settings()
    net = sketch_of(build_network(settings.space, 0))
    net.body.relax(start_relaxed(settings.adapt))
    view = (32, 32, 32)
    step = Step(view, stride_schedule(view, (1, 1, 1), settings.space.levels), settings.adapt.batch, 4, 4)
    learner_need(net, step, settings.adapt, BFLOAT16)  # torch imports half of itself on the first call
    start = time.process_time()
    need = learner_need(net, step, settings.adapt, BFLOAT16)
    assert time.process_time() - start < 1.5  # 0.2 s on an idle core
    assert 0.3 * GIB < need.total < 1.5 * GIB


def test_the_largest_view_is_the_one_that_just_fits() -> None:
    for kept in (True, False):
        for activations in (2**24, 2**28, 2**31):
            need = Need(2**24, 2**24, 2**25, activations, kept)
            for free in (2**28, 2**30, 2**33):
                share = need.largest_share(free)
                assert abs(replace(need, activations=round(share * activations)).total - free) < 16


def test_an_adaptation_that_does_not_fit_is_refused_before_its_first_step(
    tiny_run: Path, phantom_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a step was taken")

    run, data = MetaRun.load(tiny_run), phantom_cache / "Phantom06_Pair.h5"
    settings = AdaptSettings(shots=1, evaluate=0, steps=1, device="cpu", precision="float32")
    monkeypatch.setattr("metanas_med.engine.adapt.adapt_episode", never)
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 64.5 * 2**20)
    with pytest.raises(
        ConfigError, match=r"needs about 0\.\d+ GiB .* free on cpu. Lower --plan.view_voxels to at most \d+, or --adapt"
    ):
        adapt(run, data, tmp_path / "m", settings)
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 2**20)
    with pytest.raises(ConfigError, match="No view fits. Lower --adapt.batch"):
        adapt(run, data, tmp_path / "m", settings)
    assert not (tmp_path / "m").exists()
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: None)  # unknown: no check
    with pytest.raises(AssertionError, match="a step was taken"):
        adapt(run, data, tmp_path / "m", settings)


def test_a_suggested_view_fits(tiny_run: Path, phantom_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each axis of a view is rounded."""

    def step(*_: Any, **__: Any) -> None:
        raise AssertionError("a step was taken")

    run, data = MetaRun.load(tiny_run), phantom_cache / "Phantom06_Pair.h5"
    monkeypatch.setattr("metanas_med.engine.adapt.adapt_episode", step)
    plan = run.settings.plan.of_adapt()
    learner = run.settings.adapt.model_copy(update={"batch": 16})
    for free in range(76, 92, 4):
        monkeypatch.setattr(memory, "free_memory_bytes", lambda free=free: free * 2**20)
        settings = AdaptSettings(shots=1, evaluate=0, steps=1, device="cpu", precision="float32", learner=learner)
        with pytest.raises(ConfigError, match="Lower --plan.view_voxels to at most") as error:
            adapt(run, data, tmp_path / "m", settings.model_copy(update={"plan": plan.model_copy(update={"view_voxels": 10**6})}))
        found = int(str(error.value).partition("at most ")[2].partition(",")[0])
        with pytest.raises(AssertionError, match="a step was taken"):
            adapt(run, data, tmp_path / "m", settings.model_copy(update={"plan": plan.model_copy(update={"view_voxels": found})}))


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        (
            {"phases": features_around(0.5, 0), "features.views": 64},
            "--plan.view_voxels to at most .* or --features.views .now 64",
        ),
        ({"learner.batch": 64}, "--plan.view_voxels to at most .* or --learner.batch .now 64"),
        ({"adapt.batch": 64}, "--plan.adapt_voxels to at most .* or --adapt.batch .now 64"),
    ],
)
def test_a_meta_training_that_does_not_fit_is_refused(
    changes: dict[str, Any], flags: str, tiny_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 72 * 2**20)
    with pytest.raises(ConfigError, match=f"{flags}.*--space.base_width"):
        meta_train(tiny_settings(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_similarities_of_a_contrast_that_do_not_fit_are_refused(tiny_settings: Callable[..., Settings], tmp_path: Path) -> None:
    changes = {"phases": [{"share": 1, "mix": {"synthesis": 1}}], "features.contrast": {"voxels": 4096}, "features.views": 64}
    with pytest.raises(ConfigError, match=r"similarities.*Lower --features.contrast.voxels to at most \d+ \(now 4096\)"):
        meta_train(tiny_settings(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_that_needs_values_is_not_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Need:
        raise NotImplementedError("a part of a registered space")

    assert memory._guarded(fails) is None
