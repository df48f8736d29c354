"""Methods of the benchmark: what each is trained and adapted by; networks of MONAI, nnU-Net."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import dints

from metanas_med.data.cache import open_caches
from metanas_med.engine.phases import kinds_of
from metanas_med.engine.support import open_dataset
from metanas_med.errors import ConfigError
from metanas_med.ignored import IGNORED
from metanas_med.space import cost, get_space
from metanas_med.studies.benchmark.fit import steps_within, warm_up_once
from metanas_med.studies.benchmark.methods import METHODS, PRETRAININGS, pretraining_settings
from metanas_med.studies.benchmark.nnunet import fit_nnunet, has_nnunet, schedule, write_raw
from metanas_med.studies.benchmark.peers import PeerNet, peer_cost
from metanas_med.studies.benchmark.pretrain import fresh_run
from metanas_med.studies.benchmark.run_cell import score_maps
from metanas_med.studies.benchmark.settings import BenchmarkSettings, shipped_benchmark
from metanas_med.tasks.organ import organ_map, task_of

from ...data.ignored_scans import with_ignored


def test_every_method_is_trained_and_adapted_as_the_table_says(settings: BenchmarkSettings) -> None:
    for name, method in METHODS.items():
        assert method.pretraining is None or method.pretraining in PRETRAININGS, name
    shipped = shipped_benchmark().run
    made: dict[str, Any] = {k: pretraining_settings(k, shipped, shipped.space, 1, ("pair",)) for k in PRETRAININGS}
    assert all(s.tasks.hold_out == ("pair",) and s.seed == shipped.seed + 1 for s in made.values())
    assert made["joint"].features.head == "trained" and kinds_of(made["joint"].phases) == {"features"}
    assert made["fomaml"].meta.name == "fomaml" and made["fomaml"].learner.name == "sgd"
    # the other methods use everything that does not need alpha: the same episodes (without recasting in joint training) and head
    ours = made["metanas"]
    assert ours.tasks.synthetic and ours.tasks.recast and ours.features.diversity
    for kind in ("reptile", "joint", "fomaml"):
        assert made[kind].tasks.model_copy(update={"recast": ours.tasks.recast}) == ours.tasks and made[kind].plan == ours.plan
        assert made[kind].learner.head == "closed_form" and made[kind].meta.max_seconds == ours.meta.max_seconds
        assert made[kind].meta.iterations == ours.meta.iterations
    assert made["reptile"].features.diversity == made["joint"].features.diversity == ours.features.diversity
    for kind in ("reptile-plain", "joint-plain"):
        plain = made[kind]
        assert plain.learner.head == "meta_row" and plain.tasks.synthetic == plain.tasks.recast == 0
        assert plain.features.optimizer == "adam" or kinds_of(plain.phases) == {"tasks"}
        assert plain.features.diversity == 0 or kinds_of(plain.phases) == {"tasks"}
    # all methods have the same plan, except published methods and MONAI's
    theirs = {name for name, method in METHODS.items() if method.plain or method.network in ("segresnet", "dints")}
    assert {name for name, method in METHODS.items() if method.plan} == theirs
    assert all(METHODS[name].plan == {"drop_small": False} for name in theirs)


def test_the_fixed_network_costs_what_the_found_one_does(settings: BenchmarkSettings) -> None:
    wide = {"base_width": 16, "max_width": 48, "levels": 3, "nodes": (1, 2)}
    space = settings.run.space.model_copy(update=wide)
    run = fresh_run(settings.run, space, ("pair",), 0)
    from metanas_med.studies.benchmark import pretrain as module

    found = module.found_genotype(run)
    target = module.genotype_multiply_adds(found, (32, 32, 32), ((2, 2, 2),) * 2)
    own = module.unet_of_cost(space, target, (32, 32, 32), ((2, 2, 2),) * 2)
    assert own.name == "unet" and own.levels == 3
    counted = cost(get_space(own).build(None), (32, 32, 32), ((2, 2, 2),) * 2)["multiply_adds"]
    assert abs(counted - target) < 0.15 * target
    nearest = []
    for width in (own.base_width - 1, own.base_width + 1):
        other = own.model_copy(update={"base_width": width, "max_width": 3 * width})
        nearest.append(abs(cost(get_space(other).build(None), (32, 32, 32), ((2, 2, 2),) * 2)["multiply_adds"] - target))
    assert abs(counted - target) <= min(nearest)


@pytest.mark.parametrize("name", ["segresnet", "dints"])
def test_a_network_of_monai_has_the_same_interface(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "dints":  # with its own width it has tens of millions of weights
        narrow = partial(dints.TopologyInstance, channel_mul=0.125)
        monkeypatch.setattr(dints, "TopologyInstance", narrow)
    net = PeerNet(name, seed=3)
    net.start_task(2, 2)
    images = torch.randn(1, 2, 9, 12, 5)
    logits = net(images, torch.zeros(1, 3, 9, 12, 5), ())
    assert logits.shape == (1, 3, 9, 12, 5) and logits.dtype == torch.float32
    again = PeerNet(name, seed=3)
    again.start_task(2, 2)
    assert torch.equal(again(images, torch.zeros(0), ()), logits)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.weights().values() if p.requires_grad)
    counted = peer_cost(net, 2, (16, 16, 16))
    assert counted["parameters"] == sum(p.numel() for p in net.parameters()) and counted["multiply_adds"] > 1e6
    with pytest.raises(ConfigError, match="unknown network 'segresnt'.*segresnet"):
        PeerNet("segresnt", 0).start_task(1, 1)


def test_the_steps_of_each_phase_are_timed_separately() -> None:
    def switch(steps: int) -> int:
        return min((steps + 1) // 2, 10)

    # start 3 s, a slow first step, soft steps of 2 s with a stall, a switch of 5 s, discrete steps of 1 s
    marks = np.cumsum([3 + 2.5, 2, 9, 2, 5 + 1, 1, 1, 1]) + 100.0
    assert steps_within(3.5 + 20 + 30, 100.0, marks.tolist(), switch) == 40  # 10 soft ones and 30
    assert steps_within(3.5 + 20 + 29.9, 100.0, marks.tolist(), switch) == 39
    assert steps_within(3.5 + 9, 100.0, marks.tolist(), switch) == 6 and steps_within(0.1, 100.0, marks.tolist(), switch) == 1
    even = np.arange(1.0, 9.0)
    assert (
        steps_within(50.0, 0.0, even.tolist(), lambda steps: 0)
        == steps_within(50.0, 0.0, even.tolist(), lambda steps: steps)
        == 50
    )


def test_nnunets_schedule_fills_the_time() -> None:
    for seconds, unit in ((60.0, 10.0), (1800.0, 0.95), (115.0, 60.0), (1999.0, 1.0), (1800.0, 37.0)):
        epochs, train, validate = schedule(seconds, unit)
        taken = epochs * (train * 0.9 + validate * 0.5) / 5 * unit  # a unit is five training iterations and a validation one
        assert 1 <= epochs <= 1000 and 0.85 * seconds <= taken <= 1.05 * seconds, (seconds, unit, epochs, train, validate)


def test_nnunets_raw_data_is_the_support_alone(settings: BenchmarkSettings, tmp_path: Path) -> None:
    dataset = open_caches(Path(settings.run.cache))["Phantom06_Pair"]
    names = [c.name for c in dataset.cases]
    task = task_of(dataset.name, dataset.labels, "all")
    write_raw(dataset, task, names[:2], names[2:3], tmp_path)
    raw = tmp_path / "raw" / "Dataset001_Support"
    note = json.loads((raw / "dataset.json").read_text())
    assert note["numTraining"] == 2 and note["labels"] == {"background": 0, "organ1": 1, "organ2": 2}
    assert len(list((raw / "imagesTr").iterdir())) == 2 * len(note["channel_names"])
    for number, name in enumerate(names[:2]):
        organs: Any = nib.load(raw / "labelsTr" / f"case_{number:03d}.nii.gz")
        assert np.array_equal(np.asarray(organs.dataobj), task.remap(dataset.label(name)))
        image: Any = nib.load(raw / "imagesTr" / f"case_{number:03d}_0000.nii.gz")
        assert np.allclose(image.affine, organs.affine) and np.array_equal(image.get_fdata(), dataset.channel(name, 0))
    assert not list(tmp_path.glob("query/*label*")) and len(list((tmp_path / "query").iterdir())) == len(note["channel_names"])


def test_ignored_voxels_count_neither_for_nnunet_nor_in_scores(phantoms: Path, tmp_path: Path) -> None:
    dataset = open_dataset(with_ignored(phantoms / "Phantom06_Pair", tmp_path / "Pair", 1), tmp_path / "cache")
    task, names = task_of(dataset.name, dataset.labels, "all"), [c.name for c in dataset.cases]
    write_raw(dataset, task, names[:2], names[2:3], tmp_path)
    raw = tmp_path / "raw" / "Dataset001_Support"
    assert json.loads((raw / "dataset.json").read_text())["labels"] == {"background": 0, "organ1": 1, "organ2": 2, "ignore": 3}
    organs: Any = nib.load(raw / "labelsTr" / "case_000.nii.gz")
    truth = organ_map(dataset, task, names[0])
    assert np.array_equal(np.asarray(organs.dataobj), np.where(truth == IGNORED, 3, truth)) and (truth == IGNORED).any()
    # right everywhere but under the ignore label
    job = cast(Any, SimpleNamespace(dataset=dataset, task=task, query=names[2:3]))
    found = cast(Any, SimpleNamespace(segment=lambda name: np.where((m := organ_map(dataset, task, name)) == IGNORED, 1, m)))
    rows = score_maps(job, found)
    assert [row["dice"] for row in rows] == [1.0, 1.0] and [row["hd95_mm"] for row in rows] == [0.0, 0.0]


@pytest.mark.slow
@pytest.mark.skipif(
    not (has_nnunet() and os.environ.get("METANAS_MED_TEST_PEERS")),
    reason="needs nnU-Net (extra: peers) and METANAS_MED_TEST_PEERS=1: it takes minutes",
)
def test_nnunet_itself_trains_and_predicts(settings: BenchmarkSettings, tmp_path: Path) -> None:
    dataset = open_caches(Path(settings.run.cache))["Phantom06_Pair"]
    names = [c.name for c in dataset.cases]
    task = task_of(dataset.name, dataset.labels, "all")
    found = fit_nnunet(dataset, task, names[:2], names[2:3], 5.0, tmp_path, "cpu")
    assert found.iterations >= 5 and found.seconds > 0
    assert found.labels[names[2]].shape == dataset.label(names[2]).shape


def test_a_device_is_warmed_up_once_so_that_loading_libraries_counts_for_no_method() -> None:
    taken: list[str] = []
    for name in ("meta:1", "meta:1", "meta:2", "meta:2", "meta:1"):
        warm_up_once(torch.device(name), lambda name=name: taken.append(name))
    assert taken == ["meta:1", "meta:2"]
