"""Moves of the weights: they are what an adaptation changes; kinds of pairs; what a mean keeps."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanas_med.data.cached import CachedDataset, open_caches
from metanas_med.engine.meta_run import MetaRun
from metanas_med.files import read_csv
from metanas_med.studies.benchmark.settings import shipped_benchmark
from metanas_med.studies.task_pull import run as module
from metanas_med.studies.task_pull.page import FRESH, KINDS, META, kept, kind_of, page, write_page


def test_a_move_is_what_the_steps_change(tiny_run: Path, phantom_cache: Path) -> None:
    run, data = MetaRun.load(tiny_run), open_caches(phantom_cache)["Phantom06_Pair"]
    benchmark = shipped_benchmark()

    def moved(steps: int, start: str, patches: int = 0) -> np.ndarray:
        adapt = benchmark.run.adapt.model_copy(update={"steps": steps, "batch": 1})
        plan = benchmark.plan.model_copy(update={"view_voxels": 4096})
        here = benchmark.model_copy(update={"run": benchmark.run.model_copy(update={"adapt": adapt}), "plan": plan})
        return module.move(run, here, data, start, "adapt", 0, patches)

    for start in (META, FRESH):
        assert not moved(0, start).any()  # only the head's rows are solved
    one = moved(1, META)
    assert one.any() and one.dtype == np.float32
    np.testing.assert_array_equal(one, moved(1, META))
    assert 0 < module.cosine(one, moved(1, META, 1)) < 1
    assert module.move(run, benchmark, data, META, "learner", 0, 0).any()


def test_pairs_are_sorted_by_kind_and_a_stopped_run_resumes(
    tiny_run: Path, phantom_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = MetaRun.load(tiny_run)
    learned = {key.split("/")[0] for key in run.train_tasks}
    axis = {name: i for i, name in enumerate(sorted(learned | set(run.held_out)))}
    made: list[tuple[str, str, str, int, int]] = []

    def move(
        run: MetaRun, benchmark: Any, dataset: CachedDataset, start: str, learner: str, draw: int, patches: int
    ) -> np.ndarray:
        """Half of each move is common to all, half belongs to the data set, and other scans add a part of their own."""
        if len(made) == 5:
            made.append((start, learner, dataset.name, draw, patches))
            raise KeyboardInterrupt
        made.append((start, learner, dataset.name, draw, patches))
        vector = np.zeros(2 * len(axis) + 1, np.float32)
        vector[[0, 1 + axis[dataset.name]]] = 1
        vector[1 + len(axis) + axis[dataset.name]] = draw
        return vector

    monkeypatch.setattr(module, "move", move)
    with pytest.raises(KeyboardInterrupt):
        module.run_task_pull(phantom_cache, tiny_run, tmp_path / "work", tmp_path)
    module.run_task_pull(phantom_cache, tiny_run, tmp_path / "work", tmp_path)
    assert len(made) == 12 * len(axis) + 1  # what was done before the interruption is not done again
    rows = read_csv(tmp_path / "task_pull.csv.xz")
    assert len(rows) == 4 * len(list(combinations(range(3 * len(axis)), 2)))
    same = [float(r["cosine"]) for r in rows if kind_of(r) == KINDS[0]]
    assert same == pytest.approx([1.0] * 4 * len(axis))
    scans = [float(r["cosine"]) for r in rows if kind_of(r) == KINDS[1]]
    assert scans == pytest.approx([2 / np.sqrt(6)] * len(scans), abs=1e-4)
    for kind in KINDS[2:]:
        found = {(r["held_out_a"], r["held_out_b"]) for r in rows if kind_of(r) == kind}
        assert found and all((a != b) == (kind == KINDS[3]) for a, b in found)
    text = write_page(tmp_path).read_text()
    assert all(f"| {name}" in text for name in axis) and f"{min(run.held_out)} (held out)" in text
    assert page(rows) == text


def test_what_a_mean_keeps_is_its_length() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 40)) + 0.5 * rng.normal(size=40)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [
        {"dataset_a": f"{a}", "dataset_b": f"{b}", "draw_a": 0, "draw_b": 0, "held_out_a": 0, "held_out_b": 0}
        | {"cosine": module.cosine(vectors[a], vectors[b])}
        for a, b in combinations(range(6), 2)
    ]
    assert kept(rows) == pytest.approx((np.linalg.norm(vectors.mean(0)), 1 / np.sqrt(6)))
