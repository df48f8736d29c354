"""What needs a CUDA device; scripts/check_gpu.sh runs this. Skipped, and counted, elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from metanas_med.config import Settings
from metanas_med.data.cached import open_cache
from metanas_med.engine.adapt import MetaRun, adapt
from metanas_med.engine.meta_train import meta_train
from metanas_med.engine.model import Model
from metanas_med.engine.run_task import build_network
from metanas_med.learner import choose_runtime

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
MakeSettings = Callable[..., Settings]


def test_cuda_is_chosen_and_bf16_where_it_is_fast() -> None:
    runtime = choose_runtime()
    assert runtime.device.type == "cuda" and runtime.bfloat16 == torch.cuda.is_bf16_supported()
    assert not choose_runtime("cuda", "float32").bfloat16


@pytest.mark.parametrize("edge", ["merged", "plain", "darts"])
def test_outputs_and_gradients_are_those_of_the_cpu(
    tiny_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, edge: str
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    settings = tiny_settings(**{"space.edge": edge})
    generator = torch.Generator().manual_seed(0)
    image, coords = (torch.randn(2, n, 13, 12, 7, generator=generator) for n in (1, 3))
    strides = ((2, 2, 1), (2, 2, 2))
    found = []
    for device in ("cpu", "cuda"):
        net = build_network(settings.space, 0)
        net.start_task(1, 2)
        net = net.to(device)
        runtime = choose_runtime(device, "float32")
        logits = net(runtime.place(image), coords.to(device), strides)
        parameters = {**net.weights(), **net.alphas()}
        grads = torch.autograd.grad(logits.square().mean(), list(parameters.values()), allow_unused=True)
        found.append((logits.detach().cpu(), [None if g is None else g.cpu() for g in grads]))
    (logits, grads), (other, others) = found
    torch.testing.assert_close(other, logits, rtol=1e-3, atol=1e-4)
    assert [g is None for g in grads] == [g is None for g in others]
    for a, b in zip(grads, others, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(b, a, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_meta_training_and_resuming(tiny_settings: MakeSettings, tmp_path: Path, precision: str) -> None:
    settings = tiny_settings(device="cuda", precision=precision, **{"meta.iterations": 2})
    meta_train(settings, tmp_path / "run")
    longer = tiny_settings(device="cuda", precision=precision)
    run = MetaRun.load(meta_train(longer, tmp_path / "run", resume=True))
    assert all(t.isfinite().all() and t.device.type == "cpu" for t in {**run.state.weights, **run.state.alphas}.values())


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_model_adapted_on_the_gpu_predicts_on_the_cpu(
    tiny_run: Path, phantom_cache: Path, tmp_path: Path, precision: str
) -> None:
    pair = phantom_cache / "Phantom06_Pair.h5"
    note = adapt(tiny_run, pair, tmp_path / "m", "all", 5, steps=4, evaluate=1, device="cuda", precision=precision)
    assert np.isfinite(note["report"]["losses"]).all()
    data = open_cache(pair)
    case = data.cases[0]
    maps = [
        Model.load(tmp_path / "m", device, "float32").segment(data.image(case.name), case.spacing) for device in ("cpu", "cuda")
    ]
    assert float((maps[0] == maps[1]).mean()) > 0.99
