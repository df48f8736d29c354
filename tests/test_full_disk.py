"""A full disk and a kill at every call that changes the disk: every file is the old one or the new one."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanas_med.data.cache import prepare
from metanas_med.data.cached import open_cache
from metanas_med.errors import StorageError
from metanas_med.files import atomic_folder, clear_leftovers, read_csv, write_csv, write_json, write_text
from metanas_med.studies.grid.cells import cell_path, write_cell
from metanas_med.tracking import LocalTracker

from .faults import Killed, failing

Write = Callable[[Path, int], None]


def folder_of_files(out: Path, version: int) -> None:
    with atomic_folder(out, last=["b.json"]) as draft:
        for name in ("a.json", "b.json"):
            write_text(draft / name, str(version))


def cell(out: Path, version: int) -> None:
    from types import SimpleNamespace

    settings: Any = SimpleNamespace(out=str(out))
    each: Any = SimpleNamespace(name=f"cell{version}", file=f"cell{version}.json")
    write_cell(settings, each, lambda: {"version": version})
    assert cell_path(settings, each).exists()


#: what writes, and which files may be found at the end of a write of version 2 over version 1
WRITES: dict[str, Write] = {
    "text": lambda out, version: write_text(out / "a.json", str(version)),
    "json": lambda out, version: write_json(out / "a.json", version),
    "table": lambda out, version: write_csv(out / "a.json", [{"version": version}]),
    "folder": folder_of_files,
    "cell": cell,
}


def versions(folder: Path) -> dict[str, str]:
    files = (p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p): (folder / p).read_text() for p in files if not any(part.startswith(".") for part in p.parts)}


@pytest.mark.parametrize("kill", [False, True], ids=["full", "killed"])
@pytest.mark.parametrize("name", WRITES)
def test_a_file_is_the_old_one_or_the_new_one(name: str, kill: bool, tmp_path: Path) -> None:
    write = WRITES[name]
    (tmp_path / "expected").mkdir()
    write(tmp_path / "expected", 1)
    old = versions(tmp_path / "expected")
    write(tmp_path / "expected", 2)
    new = versions(tmp_path / "expected")
    for number in range(1, 60):
        folder = tmp_path / f"out{number}"
        write(folder, 1)
        with failing(number, kill) as calls:
            try:
                write(folder, 2)
            except (StorageError, Killed):
                pass
        found = versions(folder)
        assert all(text in (old.get(file), new[file]) for file, text in found.items()) and old.keys() <= found.keys(), found
        assert found.get("b.json") != "2" or found == new  # the last file marks a complete folder
        assert kill or not [p for p in folder.rglob("*") if p.name.startswith(".")]
        write(folder, 2)
        assert versions(folder) == new
        if calls[0] < number:
            break
    else:
        raise AssertionError("never complete")
    assert number > 3


def test_rows_survive_a_full_disk_and_a_kill(tmp_path: Path) -> None:
    """The table of a run grows row by row; a row that was cut short is written again."""
    for kill in (False, True):
        for number in range(1, 40):
            folder = tmp_path / f"{kill}{number}"
            track(folder, range(1, 3))
            with failing(number, kill) as calls:
                try:
                    track(folder, range(3, 5), resume=True)
                except (StorageError, Killed):
                    pass
            rows = folder / "iteration.jsonl"
            rows.write_text(rows.read_text() + '{"iteration": 9, "lo')  # and the last row was cut short
            track(folder, range(3, 5), resume=True)
            assert [row["loss"] for row in read_csv(folder / "iteration.csv")] == ["1.0", "2.0", "3.0", "4.0"]
            assert json.loads((folder / "summary.json").read_text())["iterations"] == 4
            if calls[0] < number:
                break
        assert 3 < number < 39


def track(folder: Path, iterations: range, resume: bool = False) -> None:
    tracker = LocalTracker(folder, resume=resume)
    tracker.config({"lr": 0.1})
    tracker.rewind("iteration", iterations[0])
    for iteration in iterations:
        tracker.metrics("iteration", iteration, {"loss": float(iteration)})
    tracker.summary({"iterations": iterations[-1]})
    tracker.close()


def test_a_row_on_a_full_disk_is_an_error_with_its_cause(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "iteration.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        LocalTracker(tmp_path).metrics("iteration", 1, {"loss": 1.0})


@pytest.mark.parametrize("kill", [False, True], ids=["full", "killed"])
def test_a_cache_is_the_old_one_or_the_new_one(kill: bool, make_msd: Any, tmp_path: Path, edit_json: Any) -> None:
    root = make_msd(num_cases=2)
    for number in range(1, 60):
        cache = tmp_path / f"cache{number}"
        edit_json(root, description="first")
        prepare([root], cache, workers=1)
        edit_json(root, description="second")
        with failing(number, kill) as calls:
            try:
                prepare([root], cache, workers=1)
            except (StorageError, OSError, Killed):
                pass
        found = open_cache(cache / "Toy.h5")
        assert found.meta["description"] in ("first", "second") and found.image(found.cases[0].name).shape == (1, 10, 12, 8)
        assert kill or [p.name for p in cache.iterdir()] == ["Toy.h5"]
        clear_leftovers(cache, gone=None)
        (row,) = prepare([root], cache, workers=1)
        assert row.cases == 2 and open_cache(cache / "Toy.h5").meta["description"] == "second"
        if calls[0] < number:
            break
    else:
        raise AssertionError("never complete")
    assert number > 3


def test_a_file_of_limited_size_is_refused_by_the_system_itself(tmp_path: Path) -> None:
    """Not simulated: the process may write a kilobyte."""
    write_text(tmp_path / "a.json", "old")
    pid = os.fork()
    if not pid:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
            write_text(tmp_path / "a.json", "x" * 4096)
        except StorageError as error:
            code = 0 if "File too large" in str(error) and "Free some space" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "old"
