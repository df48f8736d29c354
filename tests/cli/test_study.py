"""``metanas-med study``: the list of studies, mistyped names, settings and options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metanas_med.cli import main
from metanas_med.studies.registry import find_studies

from .shared import Refused


def test_without_a_name_the_studies_are_listed_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, study in find_studies().items():
        assert [line for line in lines if line.split()[0:1] == [name] and line.endswith(study.help)]


@pytest.mark.parametrize("arguments", [["study"], ["study", "benchmark", "--help"], ["study", "ablation", "--help"]])
def test_a_list_or_a_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "import metanas_med.cli as cli\n"
        "try:\n    cli.main(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'monai', 'wandb', 'numpy', 'scipy', 'h5py', 'nibabel', 'matplotlib', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmrk"], "unknown study 'benchmrk'; did you mean 'benchmark'?"),
        (["compare_runs"], "unknown study 'compare_runs'; did you mean 'compare-runs'?"),
        (["benchmark", "--draw", "3"], "unknown option --draw; did you mean '--draws'?"),
        (["unnas", "--archtectures", "3"], "unknown option --archtectures; did you mean '--num_architectures'?"),
        (
            ["bench", "job", "--draws", "3"],
            "unknown option --draws; known: --against, --help, --out, --quick, --report, --verbose",
        ),
        (["ablation"], "the following arguments are required: --out"),
    ],
)
def test_a_mistake_is_explained_in_two_lines(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["study", *arguments])
    shown = capsys.readouterr().err
    assert stopped.value.code == 2 and f"error: {message}" in shown and shown.count("\n") <= 2


@pytest.mark.parametrize("command", ["benchmark", "unnas", "bench", "first-run"])
def test_studies_are_no_commands_of_their_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command])
    assert f"unknown command {command!r}" in capsys.readouterr().err


def test_settings_of_a_study_are_checked_and_reach_it(
    refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "setting draws: Input should be greater than or equal to 1, found 0" in refused("study", "benchmark", "--draws", "0")
    assert "unknown setting 'run.meta.iteration'; did you mean 'iterations'" in refused(
        "study", "benchmark", "--run.meta.iteration", "5"
    )
    # what is run is a setting like any other
    assert "only: no cell's name contains 'nothing'" in refused("study", "benchmark", "--only", "nothing", "--dry-run")
    arguments = ["study", "benchmark", "--only", "heart-Ext12_CardiacACDC-all-scratch-5shot-20step", "--out", str(tmp_path)]
    assert main([*arguments, "--dry-run"]) == 0
    assert "3 cells, 0 done" in capsys.readouterr().out


@pytest.mark.parametrize("study", ["ablation", "annotate", "compare-runs", "feature-diversity", "task-pull"])
def test_a_page_without_rows_is_refused(study: str, tmp_path: Path, refused: Refused) -> None:
    assert "found no rows. Run the study with its runs or data sets first." in refused("study", study, "--out", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare-runs", "runs/meta"], "expected NAME=RUN[,RUN...], found 'runs/meta'"),
        (["feature-diversity", "name="], "expected NAME=RUN, found 'name='"),
        (["annotate", "data/Liver"], "data sets were given without a run"),
    ],
)
def test_runs_with_a_mistake(arguments: list[Any], message: str, tmp_path: Path, refused: Refused) -> None:
    assert message in refused("study", *arguments, "--out", tmp_path)
