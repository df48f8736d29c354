"""The benchmark: its grid, its guards, a tiny run on phantoms that is killed and goes on, its report."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.networks.nets import dints

from metanas_med.config import BenchmarkData, BenchmarkSettings, load_settings
from metanas_med.data.cache import open_caches
from metanas_med.data.cached import CachedDataset
from metanas_med.engine.adapt import MetaRun
from metanas_med.engine.benchmark import figures
from metanas_med.engine.benchmark import run as run_module
from metanas_med.engine.benchmark.cells import Cell, chosen, grid, predicted_hours, within_hours
from metanas_med.engine.benchmark.compare import difference, matched, read_results
from metanas_med.engine.benchmark.fit import steps_within
from metanas_med.engine.benchmark.guards import check_development, check_held_out, check_settings
from metanas_med.engine.benchmark.methods import METHODS, PRETRAININGS, pretraining_settings
from metanas_med.engine.benchmark.nnunet import fit_nnunet, has_nnunet, schedule, write_raw
from metanas_med.engine.benchmark.peers import PeerNet, peer_cost
from metanas_med.engine.benchmark.pretrain import fixed_space, folder_of, fresh_run, pretrain
from metanas_med.engine.benchmark.report import write_report
from metanas_med.engine.benchmark.run import benchmark
from metanas_med.engine.benchmark.run_cell import COLUMNS, architecture_hash, run_cell, work
from metanas_med.engine.benchmark.tables import complete, organ_table, step_table
from metanas_med.engine.grid import alone_in, cell_path, failure_path, query_cases, support_cases
from metanas_med.errors import ConfigError, DataError
from metanas_med.files import write_csv, write_json
from metanas_med.report.statistics import Margin
from metanas_med.resources import find_resource
from metanas_med.space import build_space, cost
from metanas_med.tasks.episode import check_patients
from metanas_med.tasks.organ import task_of

GROUP = {
    "name": "pair",
    "hold_out": ["Phantom06_Pair"],
    "data": [{"dataset": "Phantom06_Pair", "organs": ["left", "right"]}],
}
GENOTYPE = {"dims": 3, "widths": [2], "cells": {}, "skips": {}}
METHODS_HERE = ["metanas", "metanas-frozen", "reptile", "joint", "scratch", "scratch-10x"]


@pytest.fixture
def settings(tiny_benchmark: Any) -> BenchmarkSettings:
    few = {"shots": [2], "curve_steps": [3], "matched_steps": [4], "curve_query": 1, "plan": {"view_voxels": 400}}
    # of two channels, some architectures are cheaper than any U-Net, and a search of two iterations may find one
    run = {"features.steps": 1, "space.base_width": 4, "space.max_width": 8}
    return tiny_benchmark(run, groups=[GROUP], methods=METHODS_HERE, **few)


def test_the_grid_holds_what_was_asked_for_each_cell_once(settings: BenchmarkSettings) -> None:
    two = settings.model_copy(update={"draws": 2, "seeds": 2, "each_organ": ("metanas",)})
    cells = grid(two)
    assert len({c.name for c in cells}) == len(cells) == len(set(cells))
    count = {name: sum(c.method == name for c in cells) for name in METHODS_HERE}
    # metanas: 3 targets x 3 numbers of steps x 2 draws x 2 seeds; without search one number of steps more, and the time of a search
    assert count == {"metanas": 36, "metanas-frozen": 20, "reptile": 20, "joint": 20, "scratch": 10, "scratch-10x": 2}
    place = {cell: number for number, cell in enumerate(cells)}
    for cell in cells:
        if cell.reference:
            assert place[cell.reference] < place[cell] and cell.reference.method == "metanas" and cell.times in (1, 10)
    assert [(c.seed, c.draw) for c in cells] == sorted((c.seed, c.draw) for c in cells)  # balanced, should it stop half-way
    # within a draw: the steps that margins are of, as many gradients and seconds, then no step, curves, and longer times last
    first = [c.time or c.steps for c in cells if (c.seed, c.draw) == (0, 0)]
    turns = [{20: 0, 4: 1, "x1": 1, 0: 2, 3: 3, "x10": 4}[length] for length in first]
    assert turns == sorted(turns) and set(turns) == {0, 1, 2, 3, 4}


def test_cells_of_a_seed_do_not_wait_for_the_meta_trainings_of_the_next(
    settings: BenchmarkSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, Any]] = []

    def note(_: Any, job: Any, jobs: Any, then: Any = None) -> None:
        if job is pretrain:
            done.extend(("pretrain", j[1][1:]) for first in jobs for j in (first, *then(first)))
        elif jobs:
            done.append(("work", {j[1].seed for j in jobs}))

    monkeypatch.setattr(run_module, "work_through", note)
    two = settings.model_copy(update={"seeds": 2, "methods": ("metanas", "joint", "scratch")})
    with pytest.raises(ConfigError, match="no cell"):
        benchmark(write_config(two, tmp_path / "benchmark.yaml"))
    # of each seed: the search of the group, at its end what is as large as the architecture that it found, then cells
    first = [("pretrain", ("metanas", 0)), ("pretrain", ("joint", 0)), ("work", {0})]
    second = [("pretrain", ("metanas", 1)), ("pretrain", ("metanas", 0)), ("pretrain", ("joint", 1)), ("work", {1})]
    assert done == [*first, *second]


def test_cells_are_chosen_by_name_with_what_they_rest_on(settings: BenchmarkSettings) -> None:
    only = settings.model_copy(update={"only": "scratch-10x"})
    assert [c.method for c in chosen(only)] == ["metanas", "scratch-10x"]
    both = settings.model_copy(update={"only": "scratch-10x, metanas-frozen"})
    assert {c.method for c in chosen(both)} == {"metanas", "metanas-frozen", "scratch-10x"}
    assert chosen(settings.model_copy(update={"only": "scratch-10x,"})) == chosen(only)
    assert chosen(settings.model_copy(update={"only": ""})) == grid(settings)
    with pytest.raises(ConfigError, match="no cell's name holds 'pair-both'; a name is such as 'pair-Phantom06_Pair-all-metanas"):
        chosen(settings.model_copy(update={"only": "pair-both"}))
    with pytest.raises(ConfigError, match="unknown method 'reptil'.*reptile"):
        grid(settings.model_copy(update={"methods": ("reptil",)}))


def test_hours_are_predicted_and_methods_dropped_from_the_end(settings: BenchmarkSettings) -> None:
    given = {"workers": 1, "step_seconds": 1.0, "case_seconds": 10.0, "methods": ("metanas",), "each_organ": ()}
    timed = settings.model_copy(update=given)
    cells = grid(timed)
    run = timed.run.meta.max_seconds or timed.meta_seconds
    # 20, 0 and 3 steps, of which 10, none and 2 count twice, for they search; two, two and one case
    assert predicted_hours(timed, cells, set(), {}) == pytest.approx((run + 35 + 50) / 3600)
    together = timed.run.adapt.model_copy(update={"bilevel": False})  # alphas that step with the weights cost nothing on top
    single = timed.model_copy(update={"run": timed.run.model_copy(update={"adapt": together}), "meta_seconds": 100.0})
    assert predicted_hours(single, cells, set(), {}) == pytest.approx(((timed.run.meta.max_seconds or 100.0) + 23 + 50) / 3600)
    one = [c for c in grid(settings) if c.method in ("scratch", "scratch-10x") and c.steps == 20 and not c.draw]
    assert [(c.method, c.times) for c in one] == [("scratch", 0), ("scratch", 1), ("scratch-10x", 10)]
    # a time is that of a search
    assert [round(3600 * predicted_hours(timed, [c], set(), {})) for c in one] == [20 + 20, 30 + 20, 300 + 20]
    assert predicted_hours(timed, cells, {("pair", "metanas", 0)}, {("metanas", 20, 0.0): 5.0}) == pytest.approx(
        (5 + 5 + 30) / 3600
    )
    whole = settings.model_copy(update={"workers": 1})
    _, dropped, hours = within_hours(whole)
    assert not dropped and hours < 14
    kept, dropped, less = within_hours(whole.model_copy(update={"max_hours": hours * 0.9}))
    assert dropped and (*kept.methods, *reversed(dropped)) == tuple(METHODS_HERE) and less <= hours * 0.9


def test_every_method_is_trained_and_adapted_as_its_line_says(settings: BenchmarkSettings) -> None:
    for name, method in METHODS.items():
        assert method.pretraining is None or method.pretraining in PRETRAININGS, name
    shipped = load_settings(find_resource("configs", "benchmark"), (), BenchmarkSettings).run
    made = {k: pretraining_settings(k, shipped, shipped.space, 1, ("pair",)) for k in PRETRAININGS}
    assert all(s.tasks.hold_out == ("pair",) and s.seed == shipped.seed + 1 for s in made.values())
    assert made["joint"].features.head == "trained" and made["joint"].features.first == 1.0
    assert made["fomaml"].learner.name == "fomaml"
    # what does not need alpha is on for the others, too: same episodes (recast ones would have no rows in joint training), same head
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
        assert plain.features.optimizer == "adam" or plain.features.first == plain.features.last == 0
        assert plain.features.diversity == 0 or plain.features.first == plain.features.last == 0
    # nor do views or what becomes of predictions: but for published methods and MONAI's, all have the same plan
    theirs = {name for name, method in METHODS.items() if method.plain or method.network in ("segresnet", "dints")}
    assert {name for name, method in METHODS.items() if method.plan} == theirs
    assert all(METHODS[name].plan == {"drop_small": False} for name in theirs)


def test_a_patient_on_both_sides_is_refused(settings: BenchmarkSettings) -> None:
    dataset = open_caches(Path(settings.run.cache))["Phantom06_Pair"]
    names = [c.name for c in dataset.cases]
    check_patients(dataset, names[:1], [n.name for n in dataset.cases if n.patient != dataset.cases[0].patient])
    with pytest.raises(DataError, match="1 patient.* in support and query at once"):
        check_patients(dataset, names[:2], names[:1])


def test_a_run_that_saw_the_organ_or_a_relative_is_refused(settings: BenchmarkSettings, tiny_run: Path) -> None:
    datasets = open_caches(Path(settings.run.cache))
    run = MetaRun.load(tiny_run)
    check_held_out(datasets, run, "Phantom06_Pair")
    with pytest.raises(DataError, match="Phantom01_Bean was to be held out, but meta-training saw Phantom01_Bean"):
        check_held_out(datasets, run, "Phantom01_Bean")
    datasets["Phantom06_Pair"].related = ("Phantom01_Bean",)  # as a card would say
    with pytest.raises(DataError, match="meta-training saw Phantom01_Bean"):
        check_held_out(datasets, run, "Phantom06_Pair")
    # a relative that was trained on elsewhere is not in this cache: its card tells
    prostate = CachedDataset(
        datasets["Phantom06_Pair"].path, {**datasets["Phantom06_Pair"].meta, "name": "Mine", "group": "prostate"}
    )
    run = replace(run, train_tasks=("Task05_Prostate/all",))
    with pytest.raises(DataError, match="meta-training saw Task05_Prostate"):
        check_held_out({"Mine": prostate}, run, "Mine")


def test_test_groups_are_run_with_the_files_settings_alone(settings: BenchmarkSettings) -> None:
    adapt = settings.run.adapt.model_copy(update={"lr": 0.5})
    changed = settings.model_copy(update={"run": settings.run.model_copy(update={"adapt": adapt})})
    with pytest.raises(ConfigError, match=r"run\.adapt\.lr differs from it"):
        check_settings(changed, settings, ["pair"])
    # nor does it help to call the group another on the command line
    development = (settings.groups[0].model_copy(update={"development": True}),)
    with pytest.raises(ConfigError, match="differs from it"):
        check_settings(changed.model_copy(update={"groups": development}), settings, ["pair"])
    assert not (Path(settings.out) / "settings.json").exists()
    # or to put a test group's data under the name of a development group, which is one no more
    freed = settings.model_copy(update={"groups": (*settings.groups, development[0].model_copy(update={"name": "dev"}))})
    hidden = changed.model_copy(update={"groups": (settings.groups[0].model_copy(update={"name": "dev"}),)})
    with pytest.raises(ConfigError, match="differs from it"):
        check_settings(hidden, freed, ["dev"])
    assert not (Path(settings.out) / "settings.json").exists()
    elsewhere = settings.run.model_copy(update={"threads": 2, "cache": "other"})
    check_settings(settings.model_copy(update={"run": elsewhere}), settings, ["pair"])
    check_settings(settings, settings, ["pair"])
    # the file itself was changed after the first cells
    with pytest.raises(ConfigError, match=r"cells that were made under another setting of run\.adapt\.lr"):
        check_settings(changed, changed, ["pair"])


def test_development_is_free_but_a_folder_holds_one_choice(settings: BenchmarkSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = settings.model_copy(update={"groups": (settings.groups[0].model_copy(update={"development": True}),)})
    adapt = settings.run.adapt.model_copy(update={"lr": 0.5})
    changed = frozen.model_copy(update={"run": frozen.run.model_copy(update={"adapt": adapt})})
    check_settings(changed, frozen, ["pair"])
    with pytest.raises(ConfigError, match=r"another setting of run\.adapt\.lr\. Choose another --out"):
        check_settings(frozen, frozen, ["pair"])
    # a method that was changed in the code is another choice, too
    table = METHODS | {"scratch": replace(METHODS["scratch"], learner={"lr": 1.0})}
    monkeypatch.setattr("metanas_med.engine.benchmark.methods.METHODS", table)
    with pytest.raises(ConfigError, match=r"another setting of table\.methods\.scratch"):
        check_settings(changed, frozen, ["pair"])


@pytest.mark.parametrize(
    ("dataset", "group"), [("Ext12_CardiacACDC", "heart"), ("Task02_Heart", "heart"), ("Task04_Hippocampus", "hippocampus")]
)
def test_no_test_group_is_called_development(settings: BenchmarkSettings, tmp_path: Path, dataset: str, group: str) -> None:
    named = {"name": "mine", "hold_out": (dataset,), "data": (BenchmarkData(dataset=dataset),)}
    test = settings.groups[0].model_copy(update=named)
    check_development(settings.model_copy(update={"groups": (test,)}))
    wrong = settings.model_copy(update={"groups": (test.model_copy(update={"development": True}),)})
    config = write_config(wrong, tmp_path / "benchmark.yaml")
    with pytest.raises(
        ConfigError, match=f"mine is called development, but {dataset} belongs to .* test group {group}.*prostate"
    ):
        benchmark(config, dry_run=True)


def test_the_fixed_network_costs_what_the_found_one_does(settings: BenchmarkSettings) -> None:
    wide = {"base_width": 16, "max_width": 48, "levels": 3, "nodes": (1, 2)}
    space = settings.run.space.model_copy(update=wide)
    run = fresh_run(settings.run, space, ("pair",), 0)
    from metanas_med.engine.benchmark import pretrain as module

    found = module.found_genotype(run)
    target = module.genotype_multiply_adds(found, (32, 32, 32), ((2, 2, 2),) * 2)
    own = module.unet_of_cost(space, target, (32, 32, 32), ((2, 2, 2),) * 2)
    assert own.name == "unet" and own.levels == 3
    counted = cost(build_space(own), (32, 32, 32), ((2, 2, 2),) * 2)["multiply_adds"]
    assert abs(counted - target) < 0.15 * target
    nearest = []
    for width in (own.base_width - 1, own.base_width + 1):
        other = own.model_copy(update={"base_width": width, "max_width": 3 * width})
        nearest.append(abs(cost(build_space(other), (32, 32, 32), ((2, 2, 2),) * 2)["multiply_adds"] - target))
    assert abs(counted - target) <= min(nearest)


@pytest.mark.parametrize("name", ["segresnet", "dints"])
def test_a_network_of_monai_trains_behind_the_same_face(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "dints":  # as it is, it has tens of millions of weights
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


def write_config(settings: BenchmarkSettings, path: Path) -> str:
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return str(path)


def has_ended(group: int, seconds: float = 30.0) -> bool:
    """Return whether every process of a process group has ended before ``seconds`` are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_killed_grid_goes_on_to_the_same_rows(settings: BenchmarkSettings, tmp_path: Path) -> None:
    small = settings.model_copy(update={"methods": ("metanas", "joint"), "each_organ": (), "matched_steps": (), "draws": 3})
    config = write_config(small, tmp_path / "benchmark.yaml")
    command = [sys.executable, "-m", "metanas_med.cli", "benchmark", "--config", config]
    cells = Path(small.out) / "cells"
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(list(cells.glob("*.json"))) < 3 and time.monotonic() < end and first.poll() is None:
        time.sleep(0.02)
    assert first.poll() is None, "it was to be killed"
    first.kill()  # the parent alone, as the system would when memory is short: its workers end by themselves
    first.wait()
    assert has_ended(first.pid)
    planned = [c.file for c in grid(small)]
    before = {name: (cells / name).read_bytes() for name in planned if (cells / name).exists()}  # a draft is not a cell
    assert 3 <= len(before) < len(planned), "it was to be killed in mid-grid"
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(planned)} cells, {len(before)} done" in " ".join(done.stdout.split())
    assert all((cells / name).read_bytes() == content for name, content in before.items())
    rows = read_results(Path(small.results) / "results.csv.gz")
    # the same rows as of a grid that nobody killed, but for what a clock tells
    whole = small.model_copy(update={"out": str(tmp_path / "whole"), "results": str(tmp_path / "whole_results")})
    benchmark(write_config(whole, tmp_path / "whole.yaml"))
    expected = read_results(Path(whole.results) / "results.csv.gz")

    def strip(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if k != "seconds"} for r in found if not r["budget"]]

    assert len(rows) == len(expected) > 0 and strip(rows) == strip(expected) != []
    assert {r["budget"] for r in rows} == {"", "x1"}
    page = (Path(small.results) / "benchmark.md").read_text()
    assert "The grid is complete" in page and "Test groups" in page and "Goal" not in page  # two scans have no goal


def test_steps_of_either_phase_are_timed_by_themselves() -> None:
    def switch(steps: int) -> int:
        return min((steps + 1) // 2, 10)

    # three seconds of a start, the first step slow; soft steps of 2 s with a stall, 5 s of a switch, discrete ones of 1 s
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


def test_cells_are_fair_and_their_rows_whole(settings: BenchmarkSettings) -> None:
    for kind in ("metanas", "reptile"):
        pretrain((settings, ("pair", kind, 0)))
    found = {}
    for method, times in (("metanas", 0), ("metanas-frozen", 0), ("reptile", 0), ("scratch", 0), ("scratch-10x", 10)):
        cell = Cell("pair", "Phantom06_Pair", "all", method, 2, 20, 0, 0, times)
        work((settings, cell))
        found[method] = json.loads(cell_path(settings, cell).read_text())
        stamp = cell_path(settings, cell).stat().st_mtime_ns
        work((settings, cell))  # what is done is left alone
        assert cell_path(settings, cell).stat().st_mtime_ns == stamp
    ours = found["metanas"]
    assert [(r["organ"], r["case"]) for r in ours["rows"]] == [(r["organ"], r["case"]) for r in found["scratch"]["rows"]]
    assert len({tuple(f["support"]) for f in found.values()}) == 1
    assert len(ours["rows"]) == 2 * 2 and set(ours["rows"][0]) == set(COLUMNS)
    row = {name: f["rows"][0] for name, f in found.items()}
    assert row["metanas"]["gradient_evaluations"] == 30 and row["metanas-frozen"]["gradient_evaluations"] == 20
    assert row["reptile"]["gradient_evaluations"] == row["scratch"]["gradient_evaluations"] == 20
    assert row["reptile"]["multiply_adds"] == row["scratch"]["multiply_adds"] > 0
    assert row["metanas"]["checkpoint"] == row["metanas-frozen"]["checkpoint"] != row["reptile"]["checkpoint"]
    assert all(len(row[name]["architecture"]) == 8 for name in ("metanas", "metanas-frozen"))
    assert row["reptile"]["architecture"] == row["scratch"]["architecture"] == ""
    assert row["scratch"]["checkpoint"].startswith("fresh-") and row["scratch-10x"]["budget"] == "x10"
    assert row["scratch-10x"]["steps"] > 20  # about ten times the time of a dearer step
    assert all(0 <= r["dice"] <= 1 and r["hd95_mm"] >= 0 for f in found.values() for r in f["rows"])
    # a fixed network of the same class, from a state that never saw the organ
    assert fixed_space(settings, "pair").name == "unet"
    assert MetaRun.load(folder_of(settings, ("pair", "reptile", 0))).settings.space == fixed_space(settings, "pair")


def test_a_cell_with_a_leaking_state_is_refused(settings: BenchmarkSettings) -> None:
    leaking = settings.model_copy(update={"groups": (settings.groups[0].model_copy(update={"hold_out": ("Phantom01_Bean",)}),)})
    pretrain((leaking, ("pair", "metanas", 0)))
    with pytest.raises(DataError, match="was to be held out, but meta-training saw"):
        run_cell(leaking, Cell("pair", "Phantom06_Pair", "all", "metanas", 2, 0, 0, 0))


def made_up_rows(gain: float, shots: int = 5) -> list[dict[str, Any]]:
    """Rows of two organs, three draws and four cases, with ``gain`` Dice of ours over the others; the first case at all steps."""
    random, rows = np.random.default_rng(0), []
    level = {"metanas": gain, "metanas-frozen": 0.0, "scratch": -0.02, "nnunet-30min": 0.2, "scratch-plain": -0.3}
    for organ in ("left", "right"):
        for draw in range(3):
            for case in range(4):
                base = 0.7 + 0.05 * random.normal()
                for method, more in level.items():
                    lengths = {"metanas": (0, 20, 100), "nnunet-30min": (900,)}.get(method, (0, 20, 30, 100, 45))
                    for steps in lengths:
                        if (steps == 100 and case) or (method == "nnunet-30min" and draw):
                            continue
                        dice = base + more + 0.002 * min(steps, 50) + 0.005 * random.normal()
                        evaluations = steps + (10 if method == "metanas" and steps else 0)
                        budget = {45: "x1", 900: "30 min"}.get(steps, "")
                        seconds = 1800 if budget == "30 min" else 30 if budget or method == "metanas" else steps / 2
                        rows.append(
                            dict.fromkeys(COLUMNS, "")
                            | {"held_out": "pair", "development": 0, "dataset": "Phantom06_Pair", "target": "all", "organ": organ}
                            | {"method": method, "shots": shots, "steps": steps, "draw": draw, "seed": 0, "case": f"case{case}"}
                            | {"dice": dice, "nsd": dice, "hd95_mm": 3.0, "seconds": seconds, "code": "x", "device": "cpu"}
                            | {"gradient_evaluations": evaluations, "budget": budget}
                            | ({} if "nnunet" in method else {"parameters": 1000, "multiply_adds": 10**9})
                        )
    return rows


def report_of(settings: BenchmarkSettings, rows: list[dict[str, Any]]) -> str:
    write_csv(Path(settings.results) / "results.csv", rows, COLUMNS)
    here = {"shots": (5,), "methods": ("metanas", "metanas-frozen", "scratch", "nnunet-30min", "scratch-plain")}
    return write_report(Path(settings.results), settings.model_copy(update=here)).read_text()


@pytest.mark.parametrize(("gain", "verdict"), [(0.10, "reached."), (0.01, "missed: reached against 0 of 2.")])
def test_the_report_says_who_wins_and_by_how_much(settings: BenchmarkSettings, gain: float, verdict: str) -> None:
    rows = made_up_rows(gain)
    page = report_of(settings, rows)
    assert f"Goal (at least +0.03 over every other method at equal gradient evaluations): {verdict}" in page
    if gain == 0.10:
        words = "Mean rank over 2 organ(s): `metanas` 1.0, `metanas-frozen` 2.0, `scratch` 3.0."
        assert f"{words} Not ranked, for fewer organs or draws: `nnunet-30min`." in page  # it has one draw
    # ours at 20 steps takes 30 gradients and 30 seconds: the others are taken at 30 steps, and as they had our time
    line = next(line for line in page.splitlines() if line.startswith("| metanas-frozen |") and "[" in line)

    def mean(method: str, steps: int) -> float:
        return float(np.mean([r["dice"] for r in rows if r["method"] == method and r["steps"] == steps]))

    for steps in (20, 30, 45):
        assert f"{mean('metanas', 20) - mean('metanas-frozen', steps):+.3f} [" in line
    assert "(one draw: chance cannot be told), in 1/60 of its time (within the fiftieth" in page
    assert "**unfinished" in page and "the strongest other method here" in page
    # what was published plain stands in a table of its own, and plays no part in ranks and goals
    main, plain = page.split("Beside the others as they were published:")
    assert "| scratch-plain | 0." not in main and "| scratch-plain | 0." in plain
    for name in ("steps", "seconds", "cost", "organs"):
        assert (Path(settings.results) / f"benchmark_test_5shot_{name}.png").stat().st_size < 300 * 1024
        assert f"(benchmark_test_5shot_{name}.png)" in page


def test_a_comparison_that_cannot_be_made_is_not_made(settings: BenchmarkSettings, tmp_path: Path) -> None:
    rows = [r for r in made_up_rows(0.1) if r["steps"] not in (30, 45)]  # nobody has as many gradients, or our time
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    found = matched(read_results(tmp_path / "results.csv"), "scratch", 20)
    assert difference(*found["equal steps"]) and not found["equal gradient evaluations"][1] and not found["equal seconds"][1]
    page = report_of(settings, rows)
    assert (
        "Goal (at least +0.03 over every other method at equal gradient evaluations): not yet judged (cells are missing: " in page
    )
    assert "At equal seconds" not in page


def test_a_goal_is_not_reached_while_a_method_or_an_organ_is_missing(settings: BenchmarkSettings) -> None:
    rows = made_up_rows(0.1)
    goal = "Goal (at least +0.03 over every other method at equal gradient evaluations): "
    assert f"{goal}reached." in report_of(settings, rows)
    without = [r for r in rows if not (r["method"] == "scratch" and r["organ"] == "left")]
    assert f"{goal}not yet judged (cells are missing: scratch" in report_of(settings, without)
    without = [r for r in rows if r["method"] != "scratch"]
    assert f"{goal}not yet judged (cells are missing: scratch" in report_of(settings, without)
    second = settings.groups[0].model_copy(update={"data": (BenchmarkData(dataset="Other"),), "name": "other"})
    wider = settings.model_copy(update={"groups": (*settings.groups, second)})
    assert f"{goal}not yet judged (cells are missing: metanas, metanas-frozen, scratch" in report_of(wider, rows)


def test_a_goal_waits_for_every_draw_and_seed(settings: BenchmarkSettings) -> None:
    goal = "Goal (at least +0.03 over every other method at equal gradient evaluations): "
    one = made_up_rows(0.1)
    both = [row | {"seed": seed} for seed in (0, 1) for row in one if not seed or METHODS[row["method"]].several_seeds]
    three = settings.model_copy(update={"draws": 3, "seeds": 2})
    assert f"{goal}reached." in report_of(three, both)
    assert f"{goal}not yet judged (cells are missing: metanas, metanas-frozen" in report_of(three, one)
    without = [r for r in both if not (r["method"] == "scratch" and r["draw"] == 2)]
    assert f"{goal}not yet judged (cells are missing: scratch" in report_of(three, without)


def test_what_cannot_be_run_here_is_not_planned_and_the_goal_says_so(settings: BenchmarkSettings) -> None:
    write_csv(Path(settings.results) / "results.csv", [r for r in made_up_rows(0.1) if r["method"] != "scratch"], COLUMNS)
    here = settings.model_copy(update={"shots": (5,), "methods": ("metanas", "metanas-frozen", "scratch"), "each_organ": ()})
    page = write_report(Path(settings.results), here, {"scratch": "it is not installed"}).read_text()
    assert "reached (left out: scratch)." in page
    kept = here.model_copy(update={"methods": ("metanas", "metanas-frozen")})
    assert f"of {len(grid(kept))} cells**" in page


def test_the_report_tells_how_often_alpha_found_another_network(settings: BenchmarkSettings) -> None:
    rows = made_up_rows(0.1)
    assert "another architecture" not in report_of(settings, rows)  # older results do not say
    for r in rows:
        if "metanas" in r["method"]:
            r["architecture"] = "0a" if r["draw"] == 0 or r["method"] == "metanas-frozen" or r["steps"] != 20 else f"b{r['draw']}"
    assert "It ended with another architecture than `metanas-frozen` in 2 of 3 cells." in report_of(settings, rows)


def made_up_cell(settings: BenchmarkSettings, cell: Cell, code: str = "x") -> None:
    """Write the file of a cell, with a row an organ."""
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"held_out": cell.group, "development": 0, "dataset": cell.dataset, "target": cell.target, "organ": organ, "case": "a"}
        | {
            "method": cell.method,
            "shots": cell.shots,
            "steps": cell.steps,
            "budget": cell.time,
            "draw": cell.draw,
            "seed": cell.seed,
        }
        | {
            "dice": 0.5,
            "nsd": 0.5,
            "hd95_mm": 3.0,
            "seconds": 9.0,
            "gradient_evaluations": cell.steps,
            "code": code,
            "device": "cpu",
        }
        for organ in ("left", "right")
    ]
    for row in rows:
        del row["architecture"]  # as before there was such a column
    write_json(cell_path(settings, cell), {"cell": {}, "rows": rows, "cell_seconds": 9.0, "report": {"genotype": GENOTYPE}})


def test_a_report_goes_by_the_file_whatever_the_command_line_says(settings: BenchmarkSettings, tmp_path: Path) -> None:
    config = write_config(settings, tmp_path / "benchmark.yaml")
    cells = grid(settings)
    made = [c for c in cells if c.target == "all" and c.method in ("metanas", "joint")]
    check_settings(settings, settings, ["pair"])
    for cell in made:
        made_up_cell(settings, cell)
    page = benchmark(config, ["--methods", "[metanas]", "--shots", "[2]", "--only", "metanas"], report_only=True)
    assert page and f"**unfinished: {len(made)} of {len(cells)} cells**" in page.read_text()
    assert {r["method"] for r in read_results(Path(settings.results) / "results.csv.gz")} == {"metanas", "joint"}
    assert {r["architecture"] for r in read_results(Path(settings.results) / "results.csv.gz")} == {architecture_hash(GENOTYPE)}
    # cells that were made under other settings are not published under the file's name
    kept = Path(settings.out) / "settings.json"
    noted = json.loads(kept.read_text())
    write_json(kept, noted | {"plan": noted["plan"] | {"view_voxels": 9999}})
    with pytest.raises(ConfigError, match=r"cells that were made under another setting of plan\.view_voxels"):
        benchmark(config, report_only=True)
    write_json(kept, noted)
    # a test cell that the file does not ask for is none of its results
    extra = replace(cells[0], draw=7)
    made_up_cell(settings, extra)
    assert benchmark(config, ["--draws", "8"], report_only=True)
    assert {r["draw"] for r in read_results(Path(settings.results) / "results.csv.gz")} == {0}


def test_a_page_of_a_part_says_how_far_each_method_is(settings: BenchmarkSettings, tmp_path: Path) -> None:
    development = settings.groups[0].model_copy(update={"name": "dev", "development": True})
    few = {"groups": (*settings.groups, development), "methods": ("metanas", "scratch", "joint"), "seeds": 2, "shots": (2, 1)}
    part = settings.model_copy(update=few)
    check_settings(part, part, ["pair"])
    for cell in grid(part):
        if cell.group == "pair" and cell.method == "metanas" and (cell.shots == 2 or cell.target != "all"):
            made_up_cell(part, cell)
    report = benchmark(write_config(part, tmp_path / "benchmark.yaml"), report_only=True)
    assert report
    page = report.read_text().splitlines()
    # three targets, steps 20, 0 and 3; without a search 4 steps and the time of one, too, and one seed of fresh weights
    at = page.index("| method | 2 scan(s), seed 0 | 2 scan(s), seed 1 | 1 scan(s), seed 0 | 1 scan(s), seed 1 |")
    assert page[at + 2 : at + 5] == [
        "| metanas | 9 / 9 | 9 / 9 | 6 / 9 | 6 / 9 |",
        "| joint | 0 / 5 | 0 / 5 | 0 / 5 | 0 / 5 |",
        "| scratch | 0 / 5 |  | 0 / 5 |  |",
    ]
    assert "Nothing is there yet of `joint`, `scratch`." in page


def test_the_worst_is_told_among_methods_of_the_same_draws(settings: BenchmarkSettings) -> None:
    rows = made_up_rows(-0.3)  # far below all
    assert "Worst of all that can be ranked on: left, right." in report_of(settings, rows)
    # a method that has one lucky draw is no judge, and of one draw of ours nothing is told
    lucky = [r for r in rows if r["method"] in ("metanas", "nnunet-30min") or (r["draw"] == 0 and "plain" not in r["method"])]
    assert "Worst of all" not in report_of(settings, lucky)
    assert "Worst of all" not in report_of(settings, [r for r in rows if r["method"] != "metanas" or r["draw"] == 0])


def test_a_page_says_what_meta_training_took(settings: BenchmarkSettings, tmp_path: Path) -> None:
    check_settings(settings, settings, ["pair"])
    pretrain((settings, ("pair", "metanas", 0)))
    note = json.loads((folder_of(settings, ("pair", "metanas", 0)) / "done.json").read_text())
    assert note["iterations"] == settings.run.meta.iterations and note["seconds"] > 0
    assert note["processor_seconds"] > 0 and note["resumed"] is False
    write_json(folder_of(settings, ("pair", "joint", 0)) / "done.json", {"seconds": 9.0, "code": "old"})  # of an older version
    made_up_cell(settings, grid(settings)[0])
    report = benchmark(write_config(settings, tmp_path / "benchmark.yaml"), report_only=True)
    assert report
    with open(report.with_name("meta.csv"), newline="") as source:
        rows = list(csv.DictReader(source))
    assert [(r["held_out"], r["kind"], r["seed"], r["iterations"]) for r in rows] == [
        ("pair", "metanas", "0", "2"),
        ("pair", "joint", "0", ""),
    ]
    assert "## Meta-trainings" in report.read_text() and "| pair | joint | 0 |  | 9.0 |  |  | old |  |" in report.read_text()


def test_a_page_says_what_its_intervals_do_not_hold(settings: BenchmarkSettings) -> None:
    rows = made_up_rows(0.1)
    rows += [r | {"seed": 1} for r in rows if r["method"] == "metanas"]
    page = report_of(settings, rows)
    assert page.count("The luck of meta-training is not in them; meta-trainings a group: `metanas` 2, `metanas-frozen` 1.") == 1
    assert "of different patients (of different files where the patients are not known)" in page


def test_another_meta_training_is_no_margin(settings: BenchmarkSettings, tmp_path: Path) -> None:
    """A method without a second seed, by design or not yet, stands against the same state of ours; fresh weights stand against all."""
    rows = made_up_rows(0.1)
    first = {(r["organ"], r["draw"], r["case"], r["steps"]): r["dice"] for r in rows if r["method"] == "metanas"}
    for r in rows:
        r["dice"] = first[r["organ"], r["draw"], r["case"], 20]
    rows += [r | {"seed": 1, "dice": r["dice"] + 0.06} for r in rows if r["method"] == "metanas"]
    rows += [r | {"method": "metanas-random"} for r in rows if r["method"] == "metanas-frozen"]
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    rows = read_results(tmp_path / "results.csv")
    for method, gain in (("metanas-frozen", 0.0), ("metanas-random", 0.0), ("scratch", 0.03)):
        margin = difference(*matched(rows, method, 20)["equal steps"])
        assert margin and [margin.mean, margin.low, margin.high] == pytest.approx([gain] * 3, abs=1e-9), method
    # of those that are to have two seeds, one that has one is not ranked yet
    assert set(complete(rows)[2]) == {"metanas", "metanas-random", "scratch", "scratch-plain"}
    assert "metanas-frozen" not in {line["method"] for line in step_table(rows)}


def test_two_images_of_a_patient_share_the_luck_of_a_draw() -> None:
    rows = [r | {"support_hash": f"s{r['draw']}"} for r in made_up_rows(0.1) if r["steps"] == 20]

    def margin(rows: list[dict[str, Any]]) -> Margin:
        found = difference([r for r in rows if r["method"] == "metanas"], [r for r in rows if r["method"] == "scratch"])
        assert found
        return found

    one = margin(rows)
    both = margin([*rows, *(r | {"dataset": "Other"} for r in rows)])
    two = margin([*rows, *(r | {"dataset": "Other", "support_hash": f"t{r['draw']}"} for r in rows)])
    assert both.organs == two.organs == 4 and one.organs == 2
    # twice the same numbers are no more evidence; of other patients they would be
    assert [both.mean, both.low, both.high] == pytest.approx([one.mean, one.low, one.high])
    assert two.high - two.low < 0.9 * (one.high - one.low)


def test_costs_are_means_over_cells_not_over_their_labels(tmp_path: Path) -> None:
    rows = [r for r in made_up_rows(0.1) if r["steps"] == 20]
    rows += [r | {"dataset": "One", "seconds": 90, "multiply_adds": 4 * 10**9} for r in rows if r["organ"] == "left"]
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    line = {row["method"]: row for row in organ_table(read_results(tmp_path / "results.csv"))}
    assert line["metanas"]["seconds"] == "60.0" and line["metanas"]["multiply-adds"] == "2.50 G"


def test_a_margin_over_fewer_organs_says_so_and_is_not_the_strongest(settings: BenchmarkSettings) -> None:
    rows = [r | {"dataset": name} for name in ("Phantom06_Pair", "Other") for r in made_up_rows(0.1)]
    rows = [
        r | {"dice": 0.99} if r["method"] == "scratch" else r for r in rows if (r["method"], r["dataset"]) != ("scratch", "Other")
    ]
    page = report_of(settings, rows)
    line = next(line for line in page.splitlines() if line.startswith("| scratch |") and "[" in line)
    assert line.count("(2 of 4 organs)") == 3
    assert "At equal gradient evaluations `metanas` is 0.0" in page and "`scratch` (more than noise), the strongest" not in page
    assert "`nnunet-30min` (one draw: chance cannot be told), in" in page


def test_two_draws_give_no_verdict(settings: BenchmarkSettings) -> None:
    page = report_of(settings, [r for r in made_up_rows(0.1) if r["draw"] < 2])
    assert "above `metanas-frozen` (two draws: chance cannot be told)" in page
    assert "more than noise" not in page and "within noise" not in page and "] (two draws)" in page


def test_steps_are_compared_on_the_draws_that_all_of_them_have(tmp_path: Path) -> None:
    rows = [r for r in made_up_rows(0.1) if not (r["steps"] == 100 and r["draw"] == 2)]  # a grid that stopped among curves
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    line = {row["method"]: row for row in step_table(read_results(tmp_path / "results.csv"))}
    for method, steps in (("metanas", 20), ("scratch", 0), ("scratch", 100)):
        mine = [r["dice"] for r in rows if (r["method"], r["steps"], r["case"]) == (method, steps, "case0") and r["draw"] < 2]
        assert line[method][str(steps)] == f"{np.mean(mine):.3f}" and len(mine) == 4


def test_a_mean_stands_beside_ours_where_it_is_of_the_same_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Column by column: a method of one group, of one draw, or with an organ missing at one number of steps."""
    rows = made_up_rows(0.1)
    rows += [r | {"dataset": "Other", "dice": 0.1} for r in rows if r["method"] != "scratch-plain"]
    rows = [r for r in rows if not (r["method"] == "scratch" and r["steps"] == 100 and r["organ"] == "left")]
    write_csv(tmp_path / "results.csv", rows, COLUMNS)
    rows = read_results(tmp_path / "results.csv")
    line = {row["method"]: row for row in step_table(rows)}
    assert set(line) == {"metanas", "metanas-frozen", "scratch"}  # neither the other group's nor the one draw's
    assert line["scratch"]["100"] == "" and all(line["scratch"][n] for n in ("0", "20", "30"))
    assert line["metanas"]["30"] == "" and all(line["metanas-frozen"][n] for n in ("0", "20", "30", "100"))
    drawn: dict[str, list[dict[str, Any]]] = {}
    monkeypatch.setattr(figures, "curves", lambda path, points, *rest: drawn.update({Path(path).stem: points}))
    figures.write_figures(tmp_path, "x", rows, "")
    figures.write_shots_figure(tmp_path / "x_shots.png", rows, "")
    for points in drawn.values():
        assert {name for point in points for name in point} & set(METHODS) == {"metanas", "metanas-frozen", "scratch"}
    assert sorted(p["steps"] for p in drawn["x_steps"] if "scratch" in p) == [0, 20, 30, 45]


def test_a_meta_training_that_fails_stops_its_own_cells_alone(settings: BenchmarkSettings) -> None:
    bad = settings.run.model_copy(update={"learner": settings.run.learner.model_copy(update={"name": "nobody"})})
    broken = settings.model_copy(update={"run": bad})
    pretrain((broken, ("pair", "metanas", 0)))
    cell = Cell("pair", "Phantom06_Pair", "all", "metanas", 2, 0, 0, 0)
    work((broken, cell))
    assert (
        "meta-training pair-metanas-seed0: ConfigError: unknown learner.name 'nobody'" in failure_path(broken, cell).read_text()
    )


def test_development_groups_play_no_part_in_the_claim(settings: BenchmarkSettings) -> None:
    bad = [r | {"development": 1, "held_out": "dev", "organ": "prostate"} for r in made_up_rows(-0.4)]
    page = report_of(settings, made_up_rows(0.1) + bad)
    test, development = page.split("## Development groups")
    assert "equal gradient evaluations): reached." in test and "prostate" not in test
    assert "Goal" not in development and "below `nnunet-30min`" in development


@pytest.mark.slow
def test_a_cell_that_fails_does_not_stop_the_others(
    settings: BenchmarkSettings, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Three shots of six people with two query cases: four shots can be had, five cannot."""
    from metanas_med.cli import main

    small = {"methods": ("metanas",), "each_organ": (), "shots": (5, 2), "steps": (0,), "curve_steps": (), "workers": 2}
    config = write_config(settings.model_copy(update=small), tmp_path / "benchmark.yaml")
    assert main(["benchmark", "--config", config]) == 2
    error = capfd.readouterr().err
    assert "1 of 2 cells failed, the others are done" in error and "5 shots were asked for" in error
    rows = read_results(Path(settings.results) / "results.csv.gz")
    assert {r["shots"] for r in rows} == {2}


def test_a_budget_does_not_wait_for_a_search_that_failed(settings: BenchmarkSettings) -> None:
    cell = Cell("pair", "Phantom06_Pair", "all", "scratch-10x", 2, 20, 0, 0, 10.0)
    assert cell.reference
    failed = failure_path(settings, cell.reference)
    failed.parent.mkdir(parents=True)
    failed.write_text("out of memory")
    work((settings, cell))
    assert "the search that it rests on" in failure_path(settings, cell).read_text() and not cell_path(settings, cell).exists()


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path / "out"):
        with pytest.raises(ConfigError, match="another run is at work in"):
            with alone_in(tmp_path / "out"):
                pass
    with alone_in(tmp_path / "out"):
        pass


def test_supports_are_drawn_from_other_patients_than_the_query(settings: BenchmarkSettings) -> None:
    dataset = open_caches(Path(settings.run.cache))["Phantom06_Pair"]
    patient, task = {c.name: c.patient for c in dataset.cases}, task_of(dataset.name, dataset.labels, "all")
    query = query_cases(dataset, 3)
    drawn = [support_cases(dataset, task, 2, draw, query) for draw in range(8)]
    assert all(len(names) == 2 and not {patient[n] for n in names} & {patient[n] for n in query} for names in drawn)
    assert len({tuple(sorted(names)) for names in drawn}) > 1


def test_drafts_that_a_killed_run_left_are_removed(tmp_path: Path) -> None:
    write_json(tmp_path / "cells" / "done.json", {})
    (tmp_path / "cells" / ".k3j2.half.json").write_text("{")
    with alone_in(tmp_path):
        assert [p.name for p in (tmp_path / "cells").iterdir()] == ["done.json"]


def test_a_dry_run_shows_cells_and_hours_and_makes_nothing(settings: BenchmarkSettings, tmp_path: Path) -> None:
    from metanas_med.cli import main

    config = write_config(settings, tmp_path / "benchmark.yaml")
    assert main(["benchmark", "--config", config, "--dry-run"]) == 0
    assert not Path(settings.out).exists() and not Path(settings.results).exists()
    assert main(["benchmark", "--config", config, "--report"]) == 2  # nothing is done yet
    assert main(["benchmark", "--config", config, "--only", "nothing"]) == 2


def test_the_shipped_configuration_is_whole() -> None:
    assert load_settings(find_resource("configs", "benchmark_full"), (), BenchmarkSettings).shots == (5, 1, 3, 10)
    settings = load_settings(find_resource("configs", "benchmark"), (), BenchmarkSettings)
    test = {g.name for g in settings.groups if not g.development}
    assert test == {"hippocampus", "heart", "head_neck"}
    assert {g.name for g in settings.groups} - test == {"prostate", "sarcoma"}
    assert settings.methods[0] == "metanas" and set(settings.methods) <= set(METHODS)
    assert grid(settings)
    for name in ("benchmark", "benchmark_full", "benchmark_unlabelled"):
        check_development(load_settings(find_resource("configs", name), (), BenchmarkSettings))


def test_a_method_that_cannot_run_here_is_left_out_and_named(
    settings: BenchmarkSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metanas_med.engine.benchmark.methods.has_nnunet", lambda: False)
    monkeypatch.setattr("metanas_med.engine.benchmark.methods.has_learn2learn", lambda: False)
    kept, dropped, _ = within_hours(settings.model_copy(update={"methods": ("metanas", "nnunet-10x", "fomaml")}))
    assert kept.methods == ("metanas",)
    # what is left out for time does not go by what is installed
    one = settings.model_copy(update={"methods": ("metanas", "nnunet-30min", "scratch"), "shots": (5,)})
    hours = within_hours(one)[2]
    assert hours > 0.5
    monkeypatch.setattr("metanas_med.engine.benchmark.methods.has_nnunet", lambda: True)
    assert within_hours(one)[2] == hours
    monkeypatch.setattr("metanas_med.engine.benchmark.methods.has_nnunet", lambda: False)
    assert dropped == {"nnunet-10x": "nnU-Net is not installed (extra: peers)", "fomaml": "learn2learn is not installed"}


def test_dear_methods_have_fewer_cells(settings: BenchmarkSettings) -> None:
    other = settings.groups[0].model_copy(update={"name": "other"})
    dear = {"methods": ("metanas", "nnunet-30min", "segresnet"), "shots": (5, 1), "draws": 3, "groups": (*settings.groups, other)}
    cells = grid(settings.model_copy(update=dear))
    nnunet = [c for c in cells if c.method == "nnunet-30min"]
    assert [(c.group, c.shots, c.draw, c.steps, c.reference) for c in nnunet] == [
        ("other", 5, 0, 20, None),
        ("pair", 5, 0, 20, None),
    ]
    assert {c.group for c in cells if c.method == "segresnet"} == {"pair"}  # the first test group alone


def test_nnunets_schedule_fills_the_time() -> None:
    for seconds, unit in ((60.0, 10.0), (1800.0, 0.95), (115.0, 60.0), (1999.0, 1.0), (1800.0, 37.0)):
        epochs, train, validate = schedule(seconds, unit)
        taken = epochs * (train * 0.9 + validate * 0.5) / 5 * unit  # five training iterations and a validation one: a unit
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


def test_a_default_that_has_changed_is_another_setting(settings: BenchmarkSettings) -> None:
    path = Path(settings.out) / "settings.json"
    check_settings(settings, settings, ["pair"])
    noted = json.loads(path.read_text())
    noted["run"]["adapt"]["ridge_voxels"] += 1
    write_json(path, noted)
    with pytest.raises(ConfigError, match=r"another setting of run\.adapt\.ridge_voxels"):
        check_settings(settings, settings, ["pair"])
    noted["run"]["adapt"]["decay_steps"] = 100
    write_json(path, noted)
    with pytest.raises(ConfigError, match="is of another version"):
        check_settings(settings, settings, ["pair"])
    # settings of before defaults were written down, and of before a key came that changes nothing
    run = settings.run.model_dump(mode="json", exclude={"device", "threads", "cache", "track", "pretext"}, exclude_defaults=True)
    assert "ridge_voxels" not in run["learner"] or "prune" not in run["learner"]
    write_json(path, {**json.loads(json.dumps(noted)), "run": run})
    check_settings(settings, settings, ["pair"])


def test_a_goal_of_a_part_is_not_yet_missed(settings: BenchmarkSettings) -> None:
    without = [r for r in made_up_rows(0.01) if not (r["method"] == "scratch" and r["organ"] == "left")]
    page = report_of(settings, without)
    assert "not yet judged (cells are missing: scratch; so far reached against " in page and "missed: reached" not in page


def test_times_are_compared_on_the_draws_that_both_have(settings: BenchmarkSettings) -> None:
    rows = [r | ({"seconds": 600} if r["method"] == "metanas" and r["draw"] else {}) for r in made_up_rows(0.1)]
    assert "in 1/60 of its time" in report_of(settings, rows)  # nnU-Net has the first draw alone, in which ours took 30 s


def test_published_rows_are_not_replaced_by_fewer(settings: BenchmarkSettings, tmp_path: Path) -> None:
    config, first, second = write_config(settings, tmp_path / "benchmark.yaml"), *grid(settings)[:2]
    check_settings(settings, settings, ["pair"])
    for cell in (first, second):
        made_up_cell(settings, cell)
    assert benchmark(config, report_only=True)
    cell_path(settings, second).unlink()
    with pytest.raises(ConfigError, match=r"holds 1 cell\(s\) that are not in this run.*benchmark --merge"):
        benchmark(config, report_only=True)
