"""What is trained and scored: tasks with and without labels, starts, numbers of steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from metanas_med.data.cached import CachedDataset
from metanas_med.errors import ConfigError
from metanas_med.ignored import IGNORED
from metanas_med.learner import Runtime
from metanas_med.studies.unnas import run_cell as module
from metanas_med.studies.unnas.architectures import draw_architectures
from metanas_med.studies.unnas.cells import grid
from metanas_med.studies.unnas.run_cell import COLUMNS, fresh_network, run_cell, split
from metanas_med.studies.unnas.tasks import confusion, scores_of

from .made_up import Make, pretext_of


def test_tasks_see_other_patients_and_the_same_volumes_for_every_architecture(make: Make, pair: CachedDataset) -> None:
    settings = make()
    train, query = split(pair, settings.num_query)
    patient = {c.name: c.patient for c in pair.cases}
    assert len(query) == 2 and set(train) and not {patient[n] for n in train} & {patient[n] for n in query}
    one, two = (pretext_of(settings, pair, "rotation") for _ in range(2))
    assert len(one.query) == 4 and len(one.train) == len(train) and {v.name for v in one.query} == set(query)
    assert all(torch.equal(a.image, b.image) and torch.equal(a.label, b.label) for a, b in zip(one.query, two.query, strict=True))
    other = pretext_of(settings, pair, "rotation", seed=1)
    assert not torch.equal(one.query[0].image, other.query[0].image)
    with pytest.raises(ConfigError, match="expected at least two patients"):
        split(pair, 5)


def test_pretexts_read_no_label(make: Make, pair: CachedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a label was read")

    monkeypatch.setattr(CachedDataset, "label_region", refuse)
    settings = make()
    for name in ("rotation", "random-labels"):
        found = pretext_of(settings, pair, name)
        batch = next(iter(found.task.support.stream([(2, [0, 1])])))
        assert batch.images.shape[0] == 2 and int(batch.labels.max()) <= found.task.num_organs
    with pytest.raises(AssertionError, match="a label was read"):
        run_cell(settings, grid(settings)[0])


def test_volumes_of_pretexts_change_and_those_of_random_labels_stay(make: Make, pair: CachedDataset) -> None:
    def images(name: str) -> tuple[set[bytes], set[bytes]]:
        found = pretext_of(make(), pair, name)
        everything = list(range(found.task.num_scans))
        drawn = found.task.support.stream([(len(everything), everything)] * 3)
        return {i.numpy().tobytes() for b in drawn for i in b.images}, {v.image.numpy().tobytes() for v in found.train}

    fresh, _ = images("rotation")
    assert len(fresh) == 3 * len(images("rotation")[1])
    seen, fixed = images("random-labels")
    assert seen == fixed


def test_scores_of_counts() -> None:
    dice, accuracy = scores_of(np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]]))
    assert accuracy == 0.8 and dice == pytest.approx((12 / 14 + 4 / 6) / 2)  # the third class does not occur


def test_every_cell_has_its_own_start_and_a_fixed_number_of_steps(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make()
    first = draw_architectures(settings)[0]
    cells = [c for c in grid(settings) if c.number == 0]
    assert [(c.task, c.seed) for c in cells] == [("labels", 0), ("labels", 1), ("rotation", 0), ("random-labels", 0)]
    kernels = {fresh_network(settings, c, first).stem.kernel.detach().numpy().tobytes() for c in cells}
    assert len(kernels) == 4
    again = fresh_network(settings, cells[0], first).stem.kernel.detach().numpy().tobytes()
    assert again in kernels
    monkeypatch.setattr(module, "step_seconds", lambda *_: 0.0105)
    found = {c.task: run_cell(settings, c) for c in cells[1:]}
    for task, cell in found.items():
        row = cell["row"]
        assert set(row) == set(COLUMNS) and row["steps"] == 25 == len(cell["report"]["losses"])  # 1.25 * 0.2 s and one
        assert 0 < row["cpu_seconds"] and 0 < row["dice"] < 1 and row["code"] and row["hash"] == first.hash
        assert (row["train_dice"] == "") == (task == "labels")
        assert row["train_loss"] == pytest.approx(sum(cell["report"]["losses"]) / 25, abs=1e-5)
    assert found["labels"]["row"]["query_hash"] == found["rotation"]["row"]["query_hash"]
    assert len(found["labels"]["scores"]) == 2
    # a pace is measured once for both seeds of labels, so a slower machine changes no number of steps
    monkeypatch.setattr(module, "step_seconds", lambda *_: 0.02)
    assert run_cell(settings, cells[0])["row"]["steps"] == 25
    repeated = run_cell(settings, cells[2])
    assert {k: v for k, v in repeated["row"].items() if "seconds" not in k} == {
        k: v for k, v in found["rotation"]["row"].items() if "seconds" not in k
    }


def test_random_labels_are_memorised(make: Make, pair: CachedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    train = {"batch": 4, "lr": 0.02, "head_lr": 0.02, "ridge_voxels": 60}
    settings = make(base_widths=[8], levels=[2], space={"max_width": 8, "nodes": [1]}, num_architectures=1, train=train)
    monkeypatch.setattr(module, "step_seconds", lambda *_: settings.seconds / 60)
    row = run_cell(settings, next(c for c in grid(settings) if c.task == "random-labels"))["row"]
    assert row["train_accuracy"] > row["accuracy"] + 0.1
    own = pretext_of(settings, pair, "random-labels")
    untrained = fresh_network(settings, grid(settings)[0], draw_architectures(settings)[0])
    untrained.start_task(own.task.num_channels, own.task.num_organs)
    assert row["train_accuracy"] > scores_of(confusion(untrained, own.train, own.task, Runtime()))[1] + 0.1


def test_ignored_voxels_are_in_no_count(make: Make, pair: CachedDataset) -> None:
    settings = make(base_widths=[8], levels=[2], space={"max_width": 8, "nodes": [1]}, num_architectures=1)
    own = pretext_of(settings, pair, "random-labels")
    net = fresh_network(settings, grid(settings)[0], draw_architectures(settings)[0])
    net.start_task(own.task.num_channels, own.task.num_organs)
    whole = confusion(net, own.train, own.task, Runtime())
    cut = []
    for volume in own.train:
        label = volume.label.clone()
        label[:1] = IGNORED
        cut.append(replace(volume, label=label))
    lost = sum(volume.label[:1].numel() for volume in own.train)
    found = confusion(net, cut, own.task, Runtime())
    assert found.sum() == whole.sum() - lost and (found <= whole).all()
