import sys
import tomllib
from pathlib import Path

import h5py
import pytest

from metanas_med import machine
from metanas_med.engine import doctor
from metanas_med.files import default_cache


def rows(cache: Path | None = None) -> dict[str, tuple[str, str]]:
    return {check: (state, detail) for check, state, detail in doctor.diagnose(cache)}


def test_this_machine_is_described() -> None:
    found = rows()
    assert {"python", "torch", "monai", "cpu", "threads", "disk", "cache", "wandb", "learn2learn", "C compiler"} <= found.keys()
    assert all(state in ("ok", "warn", "fail") and detail and "\n" not in detail for state, detail in found.values())
    assert found["torch"][0] == "ok"


def test_bounds_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = {name: bound for text in project["dependencies"] for name, _, bound in [text.partition(">=")]}
    assert {name: wanted[name] for name in doctor.BOUNDS} == doctor.BOUNDS


@pytest.mark.parametrize("version, enough", [("2.9.1", False), ("2.10.0+cpu", True), ("2.11rc1", True), ("3.0", True)])
def test_versions_compare_as_numbers(version: str, enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "BOUNDS", {"torch": "2.10"})
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: version)
    assert rows(tmp_path)["torch"][0] == ("ok" if enough else "fail")


def test_cache_folder(tmp_path: Path) -> None:
    assert rows(tmp_path / "absent")["cache"][0] == "warn"
    assert rows(tmp_path)["cache"][0] == "warn"
    h5py.File(tmp_path / "Task04_Hippocampus.h5", "w").close()
    state, detail = rows(tmp_path)["cache"]
    assert state == "ok" and "Task04_Hippocampus" in detail
    (tmp_path / ".draft.Task04_Hippocampus.h5").write_bytes(b"of a prepare that was killed")
    assert rows(tmp_path)["cache"][0] == "ok"
    (tmp_path / "Broken.h5").write_bytes(b"not HDF5")
    state, detail = rows(tmp_path)["cache"]
    assert state == "fail" and "Broken.h5" in detail


def test_the_users_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``--cache`` it is the folder that commands take where they are given a data set without one."""
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own"
    assert rows()["cache"] == ("ok", f"{tmp_path / 'own'}: 0 data sets, 0.00 GiB, used when no --cache is given")
    (tmp_path / "own" / "0123").mkdir(parents=True)
    h5py.File(tmp_path / "own" / "0123" / "Task04_Hippocampus.h5", "w").close()
    assert "1 data sets" in rows()["cache"][1]
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path / "own" / "0123" / "Task04_Hippocampus.h5" / "below"))
    state, detail = rows()["cache"]
    assert state == "warn" and "cannot write to" in detail and "METANAS_MED_CACHE" in detail


def test_a_broken_installation_is_reported_and_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "h5py", None)
    for name in [name for name in sys.modules if name.startswith("metanas_med.data")]:
        monkeypatch.delitem(sys.modules, name)
    assert rows()["cache"][0] == "ok"


def test_the_key_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t")
    state, detail = rows(tmp_path)["wandb"]
    assert state == "ok" and "environment" in detail and "s3cr3t" not in detail


def test_pages_of_files_that_were_read_count_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemAvailable: 4194304 kB\n",
        "/sys/fs/cgroup/memory.max": "3221225472\n",
        "/sys/fs/cgroup/memory.current": "3000000000\n",
        "/sys/fs/cgroup/memory.stat": "anon 500000000\ninactive_file 2400000000\nactive_file 1\n",
    }
    for number, (name, text) in enumerate(list(files.items())):
        path = tmp_path / str(number)
        path.write_text(text)
        files[name] = str(path)
    monkeypatch.setattr(machine, "Path", lambda name: Path(files.get(str(name), str(name))))
    assert machine.free_memory_bytes() == 3221225472 - 3000000000 + 2400000000
