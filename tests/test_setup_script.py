import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))


def test_an_installed_checkout_returns_quickly_from_any_folder(tmp_path: Path) -> None:
    if not (ROOT / ".venv" / "metanas-setup").is_file():
        pytest.skip("scripts/setup.sh has not been run in this checkout")
    before = (ROOT / ".venv" / "metanas-setup").read_bytes()
    start = time.monotonic()
    done = subprocess.run(["bash", ROOT / "scripts" / "setup.sh"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    if "installing" in done.stdout:
        pytest.skip("the installation was out of date and has just been updated")
    assert seconds < 2
    assert (ROOT / ".venv" / "metanas-setup").read_bytes() == before


def test_a_moved_or_changed_checkout_is_set_up_again(tmp_path: Path) -> None:
    """In a path with a space, with a stand-in for Python that only records its arguments."""
    copy = tmp_path / "a copy"
    (copy / "scripts").mkdir(parents=True)
    (copy / ".venv" / "bin").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh"):
        shutil.copy(ROOT / name, copy / name)
    stand_in = copy / ".venv" / "bin" / "python"
    note = 'printf "%s\\n" "$*" >> "$(dirname "$0")/calls"'
    stand_in.write_text(f'#!/bin/sh\n{note}\ncase "$*" in *purelib*) echo /nonexistent;; esac\n')
    stand_in.chmod(0o755)
    calls = copy / ".venv" / "bin" / "calls"

    def set_up() -> str:
        calls.write_text("")
        done = subprocess.run(["bash", copy / "scripts" / "setup.sh"], cwd="/", capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return calls.read_text()

    assert "--editable .[dev,formats,dicom,onnx,bundle]" in set_up()
    assert "install" not in set_up()
    (copy / "constraints.txt").write_text("numpy==2.4.6\n")
    assert "--editable .[dev,formats,dicom,onnx,bundle]" in set_up()
    assert "install" not in set_up()
    moved = copy.rename(tmp_path / "moved")
    copy, calls = moved, moved / ".venv" / "bin" / "calls"
    assert "--editable .[dev,formats,dicom,onnx,bundle]" in set_up()


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    """With a stand-in for Python whose pip prints pip's message for a full disk."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    stand_in = tmp_path / ".venv" / "bin" / "python"

    def set_up(words: str) -> str:
        stand_in.write_text(f'#!/bin/sh\ncase "$*" in *install*) echo "{words}" >&2; exit 1;; esac\n')
        stand_in.chmod(0o755)
        done = subprocess.run(["bash", tmp_path / "scripts" / "setup.sh"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and words in done.stderr and "setup: failed" in done.stderr
        return done.stderr

    assert "setup: the disk is full (" in set_up(
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    )
    assert "is full" not in set_up("ERROR: No matching distribution found")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_valid_and_stop_at_errors(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert "set -euo pipefail" in script.read_text()
