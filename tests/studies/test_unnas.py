"""The study of UnNAS: what is drawn, trained and scored; a killed grid resumes; the report comes from its CSV alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import spearmanr

from metanas_med.cli import main
from metanas_med.config import SpaceSettings, load_settings
from metanas_med.data.cached import CachedDataset, open_cache
from metanas_med.errors import ConfigError
from metanas_med.files import write_csv, write_json
from metanas_med.learner import Runtime
from metanas_med.resources import find_resource
from metanas_med.space import build_derived, random_genotype, validate_genotype
from metanas_med.space.norm import Norm
from metanas_med.studies.benchmark.guards import check_free
from metanas_med.studies.grid.cells import cell_path
from metanas_med.studies.grid.published import Merged
from metanas_med.studies.unnas import run_cell as module
from metanas_med.studies.unnas.architectures import describe, draw_architectures, receptive_field
from metanas_med.studies.unnas.cells import Cell, chosen, grid
from metanas_med.studies.unnas.guards import check_settings
from metanas_med.studies.unnas.merge import PACE_COLUMNS, merge
from metanas_med.studies.unnas.report import by_architecture, read_results, write_report
from metanas_med.studies.unnas.run import unmeasured, unnas
from metanas_med.studies.unnas.run_cell import COLUMNS, fresh_network, pace_path, run_cell, split
from metanas_med.studies.unnas.settings import UnnasSettings
from metanas_med.studies.unnas.tasks import confusion, open_pretext, scores_of

Make = Callable[..., UnnasSettings]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread as in the grid's workers: two threads on busy cores would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make(phantoms: Path, phantom_cache: Path, tmp_path: Path) -> Make:
    """``make(**changes)``: settings of two small architectures on the phantom pair, two pretexts, short trainings."""

    def settings(**changes: Any) -> UnnasSettings:
        tree = {
            "data": str(phantoms),
            "cache": str(phantom_cache),
            "out": str(tmp_path / "out"),
            "results": str(tmp_path / "results"),
            "workers": 1,
            "dataset": "Phantom06_Pair",
            "num_query": 2,
            "query_volumes": 2,
            "num_architectures": 2,
            "levels": [2, 3],
            "base_widths": [2, 4],
            "space": {"max_width": 4, "nodes": [1], "coarse_from": 1},
            "pretexts": ["rotation", "random-labels"],
            "seconds": 0.2,
            "precision": "float32",
            "plan": {"view_voxels": 600},
            "train": {"batch": 2, "optimizer": "muon", "ridge_voxels": 60},
        }
        return UnnasSettings.model_validate(tree | changes)

    return settings


@pytest.fixture
def pair(phantom_cache: Path) -> CachedDataset:
    return open_cache(phantom_cache / "Phantom06_Pair.h5")


def shipped() -> UnnasSettings:
    return load_settings(find_resource("configs", "unnas"), (), UnnasSettings)


def pretext_of(settings: UnnasSettings, dataset: CachedDataset, name: str, seed: int = 0) -> Any:
    train, query = split(dataset, settings.num_query)
    return open_pretext(dataset, train, query, name, settings.model_copy(update={"seed": seed}), 3)


def test_the_shipped_architectures_are_distinct_sound_and_different() -> None:
    settings = shipped()
    found = draw_architectures(settings)
    assert len(found) == len({a.hash for a in found}) == 60
    assert [a.number for a in found] == list(range(60))
    for a in found:
        validate_genotype(a.genotype, a.space)
        assert len(a.genotype["widths"]) == a.levels and a.genotype["widths"][0] == a.base_width
    for part in ("levels", "base_width"):
        assert {getattr(a, part) for a in found} == {2, 3, 4} if part == "levels" else {4, 8, 16}
    for part in ("multiply_adds", "receptive_field"):
        values = [getattr(a, part) for a in found]
        assert max(values) > 5 * min(values)
    names = json.dumps([a.genotype["cells"] for a in found])
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
    settings = SpaceSettings(
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


def test_what_must_not_be_run_is_refused(
    make: Make, pair: CachedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="rotation"):
        grid(make(pretexts=["rotatoin"]))
    with pytest.raises(ConfigError, match="no cell's name contains 'x'; an example of a name is 'a000-"):
        chosen(make(only="x"))
    assert {c.task for c in chosen(make(only="rotation"))} == {"rotation"}
    check_free(pair)
    for changed in ({"name": "Ext12_CardiacACDC"}, {"group": "hippocampus"}, {"related": ["head_neck"]}):
        bad = CachedDataset(pair.path, {**pair.meta, **changed})
        with pytest.raises(ConfigError, match="belongs to the benchmark's test group .* such as Ext20_ProstateMR"):
            check_free(bad)
    check_settings(make())
    check_settings(make(num_architectures=5, workers=3, pretexts=["jigsaw"]))  # these only add cells
    with pytest.raises(ConfigError, match="made under another setting of seconds"):
        check_settings(make(seconds=3.0))
    config = write_config(make(dataset="Phantom99"), tmp_path / "bad.yaml")
    assert main(["study", "unnas", "--config", config]) == 2
    assert "holds no data set 'Phantom99'" in capsys.readouterr().err
    assert main(["study", "unnas", "--config", config, "--report"]) == 2  # nothing is done yet
    assert "holds no cell" in capsys.readouterr().err
    assert (
        main(["study", "unnas", "--config", config, "--dry-run", "--seconds", "3600", "--other_seconds", "0", "--workers", "2"])
        == 0
    )
    assert "8 cells, 0 done; predicted for the rest: 5.0 hours" in " ".join(capsys.readouterr().out.split())


def write_config(settings: UnnasSettings, path: Path) -> str:
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return str(path)


@pytest.mark.slow
def test_a_killed_grid_resumes(make: Make, tmp_path: Path) -> None:
    settings = make()
    config = write_config(settings, tmp_path / "unnas.yaml")
    cells = Path(settings.out) / "cells"
    first = subprocess.Popen(
        [sys.executable, "-m", "metanas_med.cli", "study", "unnas", "--config", config], start_new_session=True
    )
    end = time.monotonic() + 120
    while len(list(cells.glob("*.json"))) < 2 and time.monotonic() < end and first.poll() is None:
        time.sleep(0.02)
    assert first.poll() is None, "the run must still be going on"
    first.kill()  # the parent alone; its worker must end as well
    first.wait()
    while time.monotonic() < end:
        try:
            os.killpg(first.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    planned = [c.file for c in grid(settings)]
    before = {name: (cells / name).read_bytes() for name in planned if (cells / name).exists()}  # a draft is not a cell
    assert 2 <= len(before) < len(planned) == 8, "the run must be killed before it is complete"
    seen: list[Any] = []
    page = unnas(config, before=seen.append)
    assert page is not None and sum(seen[0].done.values()) == len(before) and seen[0].hours > 0
    assert all((cells / name).read_bytes() == content for name, content in before.items())
    rows = read_results(Path(settings.results) / "unnas.csv")
    assert [f"a{r['architecture']:03d}-{r['hash']}-{r['task']}-seed{r['seed']}.json" for r in rows] == planned
    kept = {name: json.loads(content)["row"]["dice"] for name, content in before.items()}
    assert {n: r["dice"] for n, r in zip(planned, rows, strict=True) if n in kept} == kept
    assert all(r["cpu_seconds"] > 0.5 * settings.seconds for r in rows)
    steps = {r["seed"]: r["steps"] for r in rows if r["architecture"] == 0 and r["task"] == "labels"}
    assert steps[0] == steps[1]
    assert "The grid is complete: 2 architectures, 2 of them with both label seeds" in page.read_text()
    csv = (Path(settings.results) / "unnas.csv").read_bytes()
    again = unnas(config, report_only=True)
    assert again == page and (Path(settings.results) / "unnas.csv").read_bytes() == csv


def made_up(settings: UnnasSettings, missing: int = 0) -> list[dict[str, Any]]:
    """Rows whose label scores follow a hidden quality; rotation follows it as well, random labels follow size alone."""
    random, rows = np.random.default_rng(0), []
    qualities = random.permutation(settings.num_architectures) / settings.num_architectures
    for cell in grid(settings)[: len(grid(settings)) - missing]:
        a = draw_architectures(settings)[cell.number]
        quality = qualities[cell.number]
        size = float(np.log10(a.multiply_adds))
        noise = 0.002 * random.normal()
        dice = {"labels": 0.5 + 0.3 * quality + noise, "rotation": 0.2 + 0.5 * quality}.get(cell.task, 0.25)
        rows.append(
            {
                **dict.fromkeys(COLUMNS, ""),
                "architecture": cell.number,
                "hash": cell.hash,
                **{k: getattr(a, k) for k in ("levels", "base_width", "parameters", "multiply_adds", "receptive_field")},
                "dataset": "Made_Up",
                "task": cell.task,
                "seed": cell.seed,
                "dice": dice,
                "train_dice": 1.0 if cell.task == "random-labels" else "",
                "train_loss": 2 - size / 10 if cell.task == "random-labels" else 0.5,
                "steps": 100,
                "cpu_seconds": 61.0,
                "wall_seconds": 70.0,
                "num_train": 18,
                "num_query": 9,
                "precision": "float32",
                "machine": "a CPU",
                "code": "0.1.0",
            }
        )
    return rows


def test_the_report_shows_the_correlations_of_its_rows(make: Make) -> None:
    settings = make(num_architectures=30, levels=[2, 3], base_widths=[2, 4, 8], space={"max_width": 16})
    folder = Path(settings.results)
    rows = made_up(settings)
    write_csv(folder / "unnas.csv", rows, COLUMNS)
    page = write_report(folder, settings).read_text()
    table = by_architecture(read_results(folder / "unnas.csv"))
    assert (
        "The grid is complete: 30 architectures, 30 of them" in page and "Data: Made_Up; 9 scans are scored, 18 scans of" in page
    )
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in page.splitlines() if line.startswith("| ")}
    correlations, against = page.split("## The chosen")[0].split("Does the task need to use the scans?")
    line = {part.split(" | ")[0].strip("| "): part.split(" | ") for part in correlations.splitlines() if part.startswith("| ")}
    assert line["labels, seed 0"][3] == "" and float(line["labels, seed 0"][2].split()[0]) > 0.97
    assert all(float(line["rotation"][k].split()[0]) > 0.97 for k in (2, 3))
    assert float(line["rotation"][4].split()[0]) > 0.95
    # random labels follow size alone: a correlation at equal cost has no meaning and is left out
    assert line["random-labels"][2] == line["multiply-adds"][2]
    assert line["random-labels"][4].strip(" |") == ""
    assert "Intervals are 95 % intervals, because 1 task(s) are compared." in against
    gain = next(part for part in against.splitlines() if part.startswith("| rotation")).split(" | ")
    labels, rotation, loss = (np.array([r[k] for r in table]) for k in ("labels", "rotation", "random-labels"))
    assert gain[1].split()[0] == f"{np.asarray(spearmanr(rotation, labels))[0] - np.asarray(spearmanr(loss, labels))[0]:+.2f}"
    best = max(table, key=lambda r: r["rotation"])
    text = page.split("## The chosen architecture")[1]
    assert f"| rotation | {best['architecture']} ({best['hash']};" in text and f"{best['labels 1']:.3f} [" in text
    mean = float(np.mean([r["labels 1"] for r in table]))
    assert f"| chance | – | {mean:.3f} [" in text
    assert f"{best['labels 1'] - mean:+.3f} [" in text
    assert lines["labels"][1].strip() == "60" and "(unnas.png)" in page
    assert 1000 < (folder / "unnas.png").stat().st_size < 300 * 1024
    assert "Machine: a CPU. Precision: float32." in page and "fitted into 0.25 s of one thread's" in page


def test_the_report_of_an_unfinished_grid_says_so(make: Make) -> None:
    settings = make(num_architectures=6, levels=[2, 3])
    folder = Path(settings.results)
    rows = made_up(settings, missing=7)  # two pretext tasks of the fifth, and all but one cell of the sixth
    write_csv(folder / "unnas.csv", rows, COLUMNS)
    page = write_report(folder, settings).read_text()
    assert "**The grid is unfinished: 17 of 24 cells**" in page
    write_csv(folder / "unnas.csv", rows[:2], COLUMNS)
    assert "Too few architectures are done" in write_report(folder, settings).read_text()
    write_csv(folder / "unnas.csv", [*rows, rows[0]], COLUMNS)
    with pytest.raises(ConfigError, match="occurs twice"):
        write_report(folder, settings)
    write_csv(folder / "unnas.csv", [*rows, {**rows[0], "seed": 5, "hash": "00000000"}], COLUMNS)
    with pytest.raises(ConfigError, match="has two hashes"):
        write_report(folder, settings)


def test_the_hash_of_an_architecture_depends_on_what_is_built_alone() -> None:
    one = random_genotype(SpaceSettings(levels=2, base_width=4, max_width=8), torch.Generator().manual_seed(0))
    other = {**one, "settings": {**one["settings"], "max_width": 64}}
    assert describe(0, one, 1000).hash == describe(0, other, 1000).hash
    assert Cell(3, "abcd", "labels", 1).name == "a003-abcd-labels-seed1"


def test_a_grid_continues_from_published_cells(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, there = make(), tmp_path / "there"
    config = write_config(settings, tmp_path / "unnas.yaml")
    rows = [row | {"steps": 26} for row in made_up(settings)]  # 0.25 s of the paces below
    write_csv(there / "unnas.csv", rows[:5], COLUMNS)
    with pytest.raises(ConfigError, match=r"there holds no unnas_settings\.json"):
        merge(config, [], there)
    check_settings(make(out=str(there)))
    (there / "settings.json").rename(there / "unnas_settings.json")
    with pytest.raises(ConfigError, match="made under another setting of seconds"):
        merge(config, ["--seconds", "9"], there)
    write_csv(there / "unnas.csv", [*rows[:5], rows[0]], COLUMNS)
    with pytest.raises(ConfigError, match="1 cell.* twice"):
        merge(config, [], there)
    for column in ("precision", "query_hash", "train_hash"):
        write_csv(there / "unnas.csv", [*rows[:4], rows[4] | {column: "other"}], COLUMNS)
        with pytest.raises(ConfigError, match=f"its cells have 2 values of {column}"):
            merge(config, [], there)
    noted = json.loads((there / "unnas_settings.json").read_text())
    write_json(there / "unnas_settings.json", noted | {"precision": "bfloat16"})
    write_csv(there / "unnas.csv", rows[:5], COLUMNS)
    with pytest.raises(ConfigError, match="made under another setting of precision"):
        merge(config, [], there)
    noted["train"]["decay_steps"] = 0  # of a version that had this key and lacked a newer one
    del noted["train"]["average"]
    write_json(there / "unnas_settings.json", noted)
    assert not Path(settings.out).exists()

    write_csv(there / "unnas.csv", rows[:5], COLUMNS)
    with pytest.raises(ConfigError, match=r"there holds no unnas_pace\.csv"):
        merge(config, [], there)
    paces = [
        {
            "architecture": r["architecture"],
            "hash": r["hash"],
            "task": r["task"],
            "step_seconds": 0.01,
            "machine": "a CPU",
            "code": "0",
        }
        for r in rows[1:5]
    ]
    write_csv(there / "unnas_pace.csv", paces[:-1], PACE_COLUMNS)
    with pytest.raises(ConfigError, match=r"1 cell\(s\) took other steps than their paces give .*26, expected a pace"):
        merge(config, [], there)
    write_csv(there / "unnas_pace.csv", paces, PACE_COLUMNS)
    write_csv(there / "unnas.csv", [*rows[:4], rows[4] | {"steps": 21}], COLUMNS)  # another spare factor
    with pytest.raises(ConfigError, match=r"1 cell\(s\) took other steps than their paces give .*21, expected 26"):
        merge(config, [], there)
    write_csv(there / "unnas.csv", rows[:5], COLUMNS)
    check_settings(settings)
    cells = grid(settings)
    write_json(pace_path(settings, cells[0]), {"step_seconds": 0.02})
    with pytest.raises(ConfigError, match="is not the pace that .*there has: trainings of one architecture would differ"):
        merge(config, [], there)
    assert not cell_path(settings, cells[0]).exists() and not pace_path(settings, cells[2]).exists()
    pace_path(settings, cells[0]).unlink()
    own = grid(settings)[4]
    write_json(cell_path(settings, own), {"cell": asdict(own), "row": rows[4] | {"code": "own"}, "cell_seconds": 70.0})
    assert main(["study", "unnas", "--config", config, "--merge", str(there)]) == 0
    assert "4 cells taken, 1 were there" in capsys.readouterr().out
    seen: list[Any] = []
    assert unnas(config, dry_run=True, before=seen.append) is None
    assert sum(seen[0].done.values()) == 5 and seen[0].hours == pytest.approx(3 * 70.0 / 3600)
    page = unnas(config, report_only=True)
    assert page
    found = read_results(page.with_name("unnas.csv"))
    assert json.loads(pace_path(settings, cells[0]).read_text()) == paces[0]
    # the second training with labels uses the pace of the first, wherever it was measured
    assert [(c.number, c.task) for c in unmeasured(settings, cells)] == [(1, "rotation"), (1, "random-labels")]
    assert [r["code"] for r in found] == ["0.1.0"] * 4 + ["own"]
    assert [(r["task"], r["dice"]) for r in found] == [(r["task"], pytest.approx(r["dice"])) for r in rows[:5]]
    # another run can take over what this run publishes
    assert merge(config, ["--out", str(tmp_path / "third")], page.parent) == Merged(5, 0, 0)
    # fewer cells do not replace it, and neither do cells that do not fit their paces
    write_json(cell_path(settings, own), {"cell": asdict(own), "row": rows[4] | {"steps": 21}})
    with pytest.raises(ConfigError, match="took other steps"):
        unnas(config, report_only=True)
    cell_path(settings, own).unlink()
    with pytest.raises(ConfigError, match=r"holds 1 cell\(s\) that are not in this run.*study unnas --merge"):
        unnas(config, report_only=True)
    write_json(cell_path(settings, own), {"cell": asdict(own), "row": rows[4]})
    write_csv(page.with_name("unnas_pace.csv"), [*paces, paces[0] | {"task": "rotation", "architecture": 1}], PACE_COLUMNS)
    with pytest.raises(ConfigError, match=r"unnas_pace\.csv holds 1 cell\(s\) that are not in this run"):
        unnas(config, report_only=True)
