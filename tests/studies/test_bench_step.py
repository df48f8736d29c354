"""A step of the main job is timed in turns with another checkout, and its share of the machine is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metanas_med.errors import DataError
from metanas_med.studies.bench import job, job_step, step_worker

SECONDS = {"before": 0.6, "after": 0.3}


class FakeWorker:
    """Answers at once: a step of 300 million multiply-adds, and products of 4 billion operations a second."""

    multiply_adds = 300_000_000

    def __init__(self, folder: Path, network: str, precision: str, threads: int) -> None:
        self.code, self.requests = "before" if folder.name == "old" else "after", list[str]()

    def ask(self, request: str) -> None:
        self.requests.append(request)

    def answer(self) -> Any:
        return 4.0 if self.requests.pop(0) == "product" else dict.fromkeys(("processor", "wall"), SECONDS[self.code])

    def close(self) -> None:
        assert not self.requests


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "old" / "metanas_med").mkdir(parents=True)
    (tmp_path / "old" / "metanas_med" / "__init__.py").touch()
    monkeypatch.setattr(job_step, "Worker", FakeWorker)
    monkeypatch.setattr(job_step, "num_cores", lambda: 2)
    monkeypatch.setattr(job_step, "cpu_bfloat16", lambda: "AMX")
    return tmp_path / "old"


def test_checkouts_take_turns_and_the_page_shows_both(old: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = job_step.bench_step(out, old, quick=True, networks=["one"])
    assert [(row["precision"], row["way"], row["code"]) for row in rows] == [
        (precision, way, code)
        for precision in ("float32", "bfloat16")
        for way in ("1 thread", "2 threads", "2 processes")
        for code in ("before", "after")
    ]
    alone = [row for row in rows if row["way"] == "1 thread"]
    assert [row["speedup"] for row in alone] == [1.0, 2.0] * 2
    assert [row["share"] for row in alone] == [0.25, 0.5] * 2  # 0.6 GFLOP in 0.6 and 0.3 seconds, of 4 GFLOP a second
    assert {row["product_gflops"] for row in rows if row["way"] == "2 processes"} == {8.0}
    tables = job.report(out)
    page = (out / job.PAGE).read_text()
    assert list(tables) == ["One step"] and "## One step" in page and "| 2.000 | 2.00 to 2.00 |" in page
    rows = job_step.bench_step(out, quick=True, networks=["one"])  # without another checkout there is nothing to compare
    assert {row["code"] for row in rows} == {"after"} and {row["speedup"] for row in rows} == {""}
    assert job.report(out)["One step"][0]["speedup"] is None


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no package metanas_med in it"):
        job_step.bench_step(tmp_path, tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "network,seconds\none,1\n", ",".join(job_step.COLUMNS) + "\n" + "x," * 15 + "x\n"])
def test_a_damaged_csv_of_steps_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / job_step.CSV).write_text(text)
    with pytest.raises(DataError, match=r"job_step.csv is damaged or of another version"):
        job.report(tmp_path)


def test_the_worker_takes_real_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_worker, "VIEW", (8, 8, 4))
    monkeypatch.setitem(step_worker.NETWORKS, "tiny", {"base_width": 2, "max_width": 4, "levels": 2, "nodes": (1,)})
    steps = step_worker.Steps("tiny", bfloat16=False)
    before = {name: p.detach().clone() for name, p in steps.net.named_parameters()}
    steps.step()
    moved = {name for name, p in steps.net.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[0] for name in moved} == {"stem", "body", "head", "task"}
    assert not any("alphas" in name for name in moved) and steps.multiply_adds % (3 * step_worker.BATCH) == 0
    assert step_worker.product_gflops(bfloat16=False, size=32) > 0


@pytest.mark.slow
def test_a_worker_is_a_process_with_another_package_and_says_where_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = "width 8, all candidates"
    here = Path(job_step.__file__).parents[3]
    worker = job_step.Worker(here, network, "float32", 1)
    worker.ask("step")
    assert worker.answer()["wall"] > 0
    worker.close()
    (tmp_path / "metanas_med").mkdir()
    (tmp_path / "metanas_med" / "__init__.py").write_text("")
    with pytest.raises(DataError, match="its code takes no steps here"):
        job_step.Worker(tmp_path, network, "float32", 1)
