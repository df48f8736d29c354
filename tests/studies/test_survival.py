"""The study of killed jobs, with a few kills."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metanas_med.cli import main
from metanas_med.files import read_csv, write_csv
from metanas_med.studies.survival.run import COLUMNS


@pytest.mark.slow
def test_jobs_that_are_killed_end_with_the_same_bits(tmp_path: Path) -> None:
    """In a process of its own, because one that has computed must not be forked."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "metanas_med.cli", "study", "survival", "--out", str(out), "--kills", "4"]
    environment = os.environ | {"METANAS_MED_CACHE": str(tmp_path / "user")}
    done = subprocess.run([*command, "--kinds", "checkpoints,cache"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_csv(out / "survival.csv")
    assert sum(int(row["kills"]) for row in rows) == 4 and {row["equal"] for row in rows} == {"1"}
    assert sum(int(row["kills_while_writing"]) for row in rows) >= 1 and {row["leftovers"] for row in rows} == {"0"}
    assert "| all | 4 |" in (out / "survival.md").read_text()
    assert not list((out / "work").iterdir())


def test_a_job_with_another_end_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = dict.fromkeys(COLUMNS, "1") | {"kind": "adapt", "seconds": "2.0", "equal": "0", "problem": "model differs"}
    (tmp_path / "shared").mkdir()
    for name in ("tiny.yaml", "done", "modules.txt"):
        (tmp_path / "shared" / name).write_text("")
    write_csv(tmp_path / "survival.csv", [row], COLUMNS)
    assert main(["study", "survival", "--out", str(tmp_path), "--kills", "1", "--kinds", "adapt"]) == 2
    assert "1 run(s) did not end as an undisturbed one, the first: adapt: model differs" in capsys.readouterr().err
    assert main(["study", "survival", "--out", str(tmp_path), "--kinds", "adapd"]) == 2
    assert "did you mean 'adapt'?" in capsys.readouterr().err
