"""Published pages come byte for byte from their CSV files; ``metanas-med study NAME --report`` or ``--out`` writes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from metanas_med.cli import main
from metanas_med.engine.settings import load_settings
from metanas_med.resources import find_resource

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize(
    ("page", "arguments"),
    [
        ("ablation.md", ["ablation"]),
        ("annotate.md", ["annotate"]),
        ("compare_runs.md", ["compare-runs"]),
        ("feature_diversity.md", ["feature-diversity"]),
        ("planted.md", ["planted", "--report"]),
        ("task_pull.md", ["task-pull"]),
        ("job.md", ["bench", "job", "--report"]),
        ("supernet.md", ["bench", "supernet", "--report"]),
        ("msd_dry_run.md", ["bench", "msd", "--report"]),
    ],
)
def test_a_page_comes_from_its_csv_alone(page: str, arguments: list[str], tmp_path: Path) -> None:
    for found in [*RESULTS.glob("*.csv"), *RESULTS.glob("*.csv.xz"), RESULTS / "annotate_notes.md"]:
        shutil.copy(found, tmp_path)
    assert main(["study", *arguments, "--out", str(tmp_path)]) == 0
    assert (tmp_path / page).read_bytes() == (RESULTS / page).read_bytes()


def test_the_page_of_unnas_comes_from_its_csv_alone(tmp_path: Path) -> None:
    from metanas_med.studies.unnas.report import write_report
    from metanas_med.studies.unnas.settings import UnnasSettings

    shutil.copy(RESULTS / "unnas.csv", tmp_path)
    page = write_report(tmp_path, load_settings(find_resource("configs", "unnas"), base=UnnasSettings))
    assert page.read_bytes() == (RESULTS / "unnas.md").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("config", "folder"), [("benchmark", "."), ("benchmark_unlabelled", "unlabelled")])
def test_the_pages_of_the_benchmark_come_from_their_csv_alone(config: str, folder: str, tmp_path: Path) -> None:
    from metanas_med.studies.benchmark.report import write_report
    from metanas_med.studies.benchmark.settings import BenchmarkSettings

    for name in ("results.csv.xz", "meta.csv"):
        shutil.copy(RESULTS / folder / name, tmp_path)
    page = write_report(tmp_path, load_settings(find_resource("configs", config), base=BenchmarkSettings))
    assert page.read_bytes() == (RESULTS / folder / "benchmark.md").read_bytes()
