"""Chosen supports against random ones: what is compared, that a stopped study resumes, and the page."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metanas_med.data.cached import open_cache
from metanas_med.engine.meta_run import MetaRun
from metanas_med.errors import CheckpointError, DataError
from metanas_med.files import write_csv
from metanas_med.studies.annotate import run as module
from metanas_med.studies.annotate.report import Row, dice_table, study_table, write_report
from metanas_med.studies.annotate.run import Annotation, choose_supports, run_study
from metanas_med.studies.grid.cases import hash_names, query_cases, support_cases


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> MetaRun:
    return MetaRun.load(tiny_run)


@pytest.fixture
def study(phantom_cache: Path, run: MetaRun) -> Annotation:
    data = open_cache(phantom_cache / "Phantom06_Pair.h5")
    return Annotation(data, "left", shots=2, draws=2, seeds=2, num_query=2, steps=1, plan=run.settings.plan)


def test_a_stopped_study_resumes(run: MetaRun, study: Annotation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[tuple[tuple[str, ...], int]] = []
    adapt_episode = module.adapt_episode

    def count(run, episode, learner, plan, seed, runtime):
        assert learner.steps == 1 and learner.alpha == "frozen"
        jobs.append((tuple(v.name for v in episode.support), seed))
        if len(jobs) == 4:
            raise KeyboardInterrupt
        return adapt_episode(run, episode, learner, plan, seed, runtime)

    monkeypatch.setattr(module, "adapt_episode", count)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, run, tmp_path, "cpu")
    with open(tmp_path / "annotate.csv", newline="") as source:
        assert len(list(csv.DictReader(source))) == 3 * 2
    rows = run_study(study, run, tmp_path, "cpu")
    assert len(rows) == 6 * 2 and len(jobs) == 4 + 3
    assert run_study(study, run, tmp_path, "cpu") and len(jobs) == 7
    query = query_cases(study.dataset, 2)
    supports = {}
    for support, seed in jobs:
        assert len(support) == 2 and not set(support) & set(query)
        supports.setdefault(hash_names(support), []).append(seed)
    for row in rows:
        assert row["query_hash"] == hash_names(query) and int(row["seed"]) in supports[row["support_hash"]]
        assert 0 <= float(row["dice"]) <= 1 and row["checkpoint"] == run.sha256[:16]
    by_choice = {c: {r["support_hash"] for r in rows if r["choice"] == c} for c in ("random", "k-medoids", "k-centre")}
    assert len(by_choice["k-medoids"]) == len(by_choice["k-centre"]) == 1
    drawn = [support_cases(study.dataset, study.task, 2, draw, query) for draw in (0, 1)]
    assert by_choice["random"] == {hash_names(names) for names in drawn}


def test_no_label_decides_what_is_chosen(run: MetaRun, study: Annotation, monkeypatch: pytest.MonkeyPatch) -> None:
    query = query_cases(study.dataset, 2)
    jobs = [("k-medoids", 0), ("k-centre", 0)]
    first = choose_supports(study, run, query, jobs, "cpu")[0]
    data = open_cache(study.dataset.path)
    data.label_region = data.label = None  # type: ignore[method-assign, assignment]
    data.cases = tuple(replace(c, label_voxels={}) for c in data.cases)
    second = choose_supports(replace(study, dataset=data), run, query, jobs, "cpu")[0]
    assert first == second and not {n for names in first.values() for n in names} & set(query)


def test_what_was_seen_or_made_otherwise_is_refused(run: MetaRun, study: Annotation, phantom_cache: Path, tmp_path: Path) -> None:
    seen = replace(study, dataset=open_cache(phantom_cache / "Phantom01_Bean.h5"), organ="all")
    with pytest.raises(DataError, match="Phantom01_Bean was to be held out, but meta-training saw Phantom01_Bean"):
        run_study(seen, run, tmp_path, "cpu")
    with pytest.raises(DataError, match=r"found 2 scan\(s\) outside the query, expected more than 2"):
        run_study(replace(study, num_query=4), run, tmp_path, "cpu")
    with pytest.raises(DataError, match="found no rows"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())
    run_study(replace(study, draws=1, seeds=0), run, tmp_path, "cpu")
    plan = study.plan.model_copy(update={"drop_small": not study.plan.drop_small})
    for changed, other in (
        (replace(study, steps=2), run),
        (replace(study, plan=plan), run),
        (study, replace(run, sha256="0" * 64)),
    ):
        with pytest.raises(CheckpointError, match="of another run or other settings. Choose another --out"):
            run_study(changed, other, tmp_path, "cpu")


def test_a_patient_in_support_and_query_stops_the_study(
    run: MetaRun, study: Annotation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leak(data, task, shots, seed, query):
        return [*support_cases(data, task, shots - 1, seed, query), query[0]]

    monkeypatch.setattr(module, "support_cases", leak)
    with pytest.raises(DataError, match=r"1 patient\(s\) are in both support and query"):
        run_study(replace(study, draws=1, seeds=0), run, tmp_path, "cpu")
    assert not list(tmp_path.iterdir())


def made_rows(dice: dict[str, list[list[float]]]) -> list[Row]:
    """Rows of Dice by way of choosing, (draws, cases)."""
    same = {
        "dataset": "Toy",
        "organ": "all",
        "shots": "5",
        "steps": "20",
        "alpha": "frozen",
        "code": "1",
        "farthest": "2",
    }
    return [
        {**same, "choice": choice, "seed": str(seed), "case": str(case), "dice": str(value), "mean_distance": str(2 - seed)}
        for choice, table in dice.items()
        for seed, values in enumerate(table)
        for case, value in enumerate(values)
    ]


def test_the_table_and_the_words(tmp_path: Path) -> None:
    random = np.array([0.5, 0.6, 0.7, 0.8])[:, None] + np.array([-0.1, 0.0, 0.1])
    rows = made_rows(
        {
            "random": random.tolist(),
            "k-medoids": (random[[3, 3, 3]] + 0.1).tolist(),
            "k-centre": [[0.5, 0.65, 0.7], [0.6, 0.6, 0.79]],
        }
    )
    np.testing.assert_allclose(dice_table(rows, "random"), random)
    drawn, medoids, centre = study_table(rows)
    assert [drawn[k] for k in ("choice", "mean", "worst", "best", "above", "minus random")] == pytest.approx(
        ["random", 0.65, 0.5, 0.8, "", ""]
    )
    assert medoids["above"] == "4 of 4" and centre["above"] == "2 of 4" and medoids["mean"] == pytest.approx(0.9)
    assert medoids["minus random"].startswith("+0.250 [+0.")
    write_csv(tmp_path / "annotate.csv", rows)
    page = write_report(tmp_path, "Made by hand.").read_text()
    assert "k-medoids is 0.250 above random draws, beyond noise. k-centre is 0.010 below random draws, within noise." in page
    assert "Over random draws, mean distance and Dice correlate by -1.00." in page
    assert write_report(tmp_path).read_text() == page  # written again, it keeps the notes
    assert "Made by hand." in page and "## Toy, all" in page and "Supports of 5 scans" in page and "| random | 4 |" in page
