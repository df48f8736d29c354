"""Everything that needs a CUDA device; ``scripts/check_gpu.sh`` runs it.

Each test is skipped, and counted, where torch finds no device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metanas_med.data.plan import Intensity, Plan
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import MetaTraining, meta_train
from metanas_med.engine.model import Model
from metanas_med.engine.phases import features_around
from metanas_med.engine.predict import predict_scores
from metanas_med.engine.settings import Settings
from metanas_med.engine.support import open_dataset
from metanas_med.learner import Runtime, choose_runtime
from metanas_med.space import UNetSupernetSettings, derive, genotype
from metanas_med.studies.bench.step import EDGES, Edge, Size, Stepper, measure_steps, step_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing here could be checked"),
]

CUDA = Runtime(torch.device("cuda"), bfloat16=False, channels_last=False)
SMALL = Size(
    "small", UNetSupernetSettings(base_width=4, max_width=16, levels=3, nodes=(1, 2, 2), coarse_from=2, search_depth=True), 16
)
WIDE = Size("width 16, 40^3", UNetSupernetSettings(base_width=16, max_width=64, coarse_from=2, search_depth=True), 40)
#: of configs/benchmark_full.yaml
LARGE = Size("width 32, 96^3", UNetSupernetSettings(base_width=32, max_width=256, search_depth=True), 96)


@pytest.fixture(autouse=True)
def _exact_float32():
    """TF32 keeps ten bits of a product; equality with the CPU is asked of float32 itself."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _gradients(edge: Edge, runtime: Runtime) -> tuple[float, dict[str, torch.Tensor]]:
    stepper = Stepper(SMALL, edge, runtime)
    loss = stepper.loss()
    loss.backward()
    return float(loss.detach()), {name: p.grad.cpu() for name, p in stepper.net.named_parameters() if p.grad is not None}


def _assert_near(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], share: float) -> None:
    """Differences count against the largest gradient of all: single small ones are sums that cancel."""
    assert found.keys() == wanted.keys()
    largest = max(float(value.abs().max()) for value in wanted.values())
    for name, value in wanted.items():
        error = float((found[name] - value).abs().max())
        assert error <= share * largest, f"{name}: {error:.3g} of {largest:.3g}"


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("edge", EDGES)
def test_loss_and_gradients_equal_those_of_the_cpu_in_float32(edge: Edge, channels_last: bool):
    loss, grads = _gradients(edge, Runtime())
    loss_cuda, grads_cuda = _gradients(edge, replace(CUDA, channels_last=channels_last))
    assert loss_cuda == pytest.approx(loss, rel=1e-4)
    _assert_near(grads_cuda, grads, 2e-3)


def test_merged_edges_equal_the_sum_of_their_candidates():
    merged, darts = Stepper(SMALL, "merged", CUDA), Stepper(SMALL, "darts", CUDA)
    darts.net.load_state_dict(merged.net.state_dict())
    losses = [stepper.loss() for stepper in (merged, darts)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    for loss in losses:
        loss.backward()
    found, wanted = ({n: p.grad for n, p in stepper.net.named_parameters() if p.grad is not None} for stepper in (merged, darts))
    _assert_near(found, wanted, 2e-3)


def test_a_derived_network_equals_the_supernet_at_one_hot_alphas():
    from metanas_med.space import one_hot_alphas

    stepper = Stepper(SMALL, "merged", CUDA)
    chosen = genotype(stepper.net.body)
    one_hot_alphas(stepper.net.body, chosen)
    with torch.no_grad():
        x = torch.randn(1, SMALL.space.base_width, *SMALL.view, device="cuda")
        pairs = zip(stepper.net.body(x, SMALL.strides), derive(stepper.net.body, chosen)(x, SMALL.strides), strict=False)
        for soft, discrete in pairs:
            torch.testing.assert_close(discrete, soft, rtol=1e-4, atol=1e-4)


def test_bfloat16_steps_lower_the_loss_and_stay_near_float32():
    runtime = choose_runtime("cuda", "bfloat16")
    assert runtime.bfloat16
    stepper, exact = Stepper(SMALL, "merged", runtime), Stepper(SMALL, "merged", CUDA)
    first = float(stepper.loss().detach())
    assert first == pytest.approx(float(exact.loss().detach()), rel=0.05)
    assert all(p.dtype == torch.float32 for p in stepper.net.parameters())
    for _ in range(20):
        stepper.step()
    assert float(stepper.loss().detach()) < first


def test_a_short_meta_training_adapting_and_predicting(phantom_cache: Path, tmp_path: Path):
    learner = {"steps": 4, "batch": 2, "ridge_voxels": 300}
    settings = Settings.model_validate(
        {
            "device": "cuda",
            "cache": str(phantom_cache),
            "space": {"base_width": 8, "max_width": 16, "levels": 3},
            "plan": {"view_voxels": 4096},
            "tasks": {"shots": (2,), "hold_out": ("Phantom06_Pair",)},
            "learner": {**learner, "discretizer": {"name": "none"}},
            "adapt": learner,
            "features": {"voxels": 300},
            "phases": features_around(0.3, 0.3),
            "meta": {"iterations": 4, "batch": 2, "commit": 0.7, "validate_every": 4, "num_validation": 1},
        }
    )
    run = MetaRun.load(meta_train(settings, tmp_path / "run"))
    assert all(value.isfinite().all() for value in run.state.weights.values())
    dataset = open_dataset(phantom_cache / "Phantom06_Pair.h5")
    note = adapt(run, dataset, tmp_path / "model", AdaptSettings(shots=4, steps=6, evaluate=1, device="cuda"))
    assert np.isfinite(note["report"]["losses"]).all()
    # what was trained on the GPU is read on the CPU
    case = dataset.cases[0]
    on = {device: Model.load(tmp_path / "model", device) for device in ("cpu", "cuda")}
    labels = {device: model.segment(dataset.image(case.name), case.spacing) for device, model in on.items()}
    assert (labels["cpu"] == labels["cuda"]).mean() > 0.97


def test_looks_at_a_scan_have_the_scores_that_they_have_on_the_cpu():
    """Test-time augmentation: what turns and enlarges stays on the CPU, where the blended windows are; the networks run on the device."""
    plan = Plan((0, 1, 2), (1.0, 1.0, 2.0), (16, 16, 8), ((2, 2, 1), (2, 2, 2)), (Intensity("robust"),))
    image = torch.randn(1, 30, 22, 9, generator=torch.Generator().manual_seed(0))
    scores = []
    for runtime in (Runtime(), CUDA):
        net = SMALL.network("merged").eval()
        net.start_task(1, 2)
        torch.nn.init.normal_(net.task["rows"], generator=torch.Generator().manual_seed(1))
        found = predict_scores(net.to(runtime.device), image, plan, runtime, tta=True)
        assert found.device.type == "cpu"
        scores.append(found)
    assert float((scores[0] - predict_scores(net.cpu(), image, plan, Runtime())).abs().max()) > 0.01  # looks count
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-3, atol=1e-4)


def test_a_run_that_was_stopped_continues_on_the_gpu(phantom_cache: Path, tmp_path: Path, fail_at: Callable[..., str]):
    """Moments, rows and alphas come back from the checkpoint to the device; not to the bit: atomic sums have no order there."""
    learner = {"steps": 3, "batch": 1, "ridge_voxels": 200}
    features = {"voxels": 200, "alpha_lr": 0.02}
    failing = fail_at({1, 2}, KeyboardInterrupt())  # one run for each head
    for head in ("closed_form", "trained"):
        settings = Settings.model_validate(
            {
                "device": "cuda",
                "precision": "float32",
                "cache": str(phantom_cache),
                "space": {"base_width": 4, "max_width": 8, "levels": 3},
                "plan": {"view_voxels": 1000},
                "tasks": {"shots": (2,)},
                "learner": {**learner, "discretizer": {"name": "none"}},
                "features": {**features, "head": head},
                "phases": features_around(0.5, 0.25),
                "meta": {"iterations": 8, "batch": 1, "commit": 1.0, "num_validation": 0, "checkpoint_every": 1},
            }
        )
        whole = MetaRun.load(meta_train(settings, tmp_path / f"whole_{head}"))
        folder = tmp_path / f"parts_{head}"

        # stopped in the first run of the task learner, in the fifth iteration
        stopping = settings.model_copy(update={"learner": settings.learner.model_copy(update={"name": failing})})
        with pytest.raises(KeyboardInterrupt):
            meta_train(stopping, folder)
        again = MetaTraining(settings, folder, resume=True)
        assert again.at.iteration == 4
        assert {value.device.type for value in again.state.weights.values()} == {"cuda"}
        again.run()
        for name, value in MetaRun.load(folder).state.weights.items():
            torch.testing.assert_close(value, whole.state.weights[name], rtol=0.05, atol=0.02)


def test_the_memory_format_that_is_chosen_is_the_faster_one():
    """channels-last against contiguous, in the precision that is chosen: a wrong choice here is a line in ``choose_runtime``."""
    runtime = choose_runtime("cuda")
    steppers = [Stepper(WIDE, "merged", replace(runtime, channels_last=last)) for last in (False, True)]
    for _ in range(3):
        for stepper in steppers:
            stepper.step()
    seconds = np.array([[stepper.seconds() for stepper in steppers] for _ in range(9)])
    ratio = float(np.median(seconds[:, 1] / seconds[:, 0]))
    print(f"\nchannels-last / contiguous: {ratio:.2f} ({np.median(seconds[:, 0]) * 1e3:.1f} ms contiguous)")
    assert runtime.channels_last == (ratio < 1) or 0.95 < ratio < 1.05


def test_the_cost_of_the_supernet_is_measured_and_shown():
    rows = measure_steps([WIDE], repetitions=5, memory=False)
    for row in rows:
        print(
            f"\n{row['network']} {row['precision']} {row['format']}: {1e3 * row['seconds']:.1f} ms, {row['time_ratio']} of plain",
            end="",
        )
    growth, whole = step_memory(WIDE, "merged", choose_runtime("cuda"))
    print(f"\nmerged: {growth / 2**20:.0f} MiB a step, {whole / 2**20:.0f} MiB in all")
    assert 0 < growth <= whole


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.mem_get_info()[1] < 40 * 2**30,
    reason="a GPU of less than 40 GiB: networks of the larger preset",
)
def test_a_step_of_the_larger_preset_is_measured_and_shown():
    """Base width 32 and views of 96^3, two a batch: every weight gets a finite gradient, and time and memory are told."""
    runtime = choose_runtime("cuda")
    for edge in ("plain", "merged"):
        stepper = Stepper(LARGE, edge, runtime)
        loss = stepper.loss()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in stepper.net.parameters() if p.grad is not None)
        stepper.step()
        seconds = float(np.median([stepper.seconds() for _ in range(3)]))
        del stepper, loss
        growth, whole = step_memory(LARGE, edge, runtime, steps=1)
        print(
            f"\n{LARGE.name}, {edge}: {1e3 * seconds:.0f} ms, {growth / 2**30:.1f} GiB a step, {whole / 2**30:.1f} GiB in all",
            end="",
        )
        torch.cuda.empty_cache()
