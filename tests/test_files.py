"""Tables on disk."""

from __future__ import annotations

import errno
import lzma
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from metanas_med.errors import DataError, StorageError
from metanas_med.files import atomic_folder, check_folder, csv_path, read_csv, write_csv, write_text

ROWS = [{"organ": "vessel, left", "dice": 0.5, "note": 'of "two"\nlines'}, {"organ": "é", "dice": 1, "note": ""}]


def test_a_compressed_table_holds_the_same_bytes_and_takes_the_place_of_the_plain_one(tmp_path: Path) -> None:
    plain, compressed = tmp_path / "rows.csv", tmp_path / "rows.csv.xz"
    write_csv(plain, ROWS)
    assert csv_path(plain) == plain
    text, expected = plain.read_bytes(), [{key: str(value) for key, value in row.items()} for row in ROWS]
    assert read_csv(plain) == expected
    write_csv(compressed, ROWS)
    assert lzma.decompress(compressed.read_bytes()) == text and read_csv(compressed) == expected
    assert csv_path(plain) == compressed and not plain.exists()
    # the same rows are the same bytes: a repository sees no change where there is none
    before = compressed.read_bytes()
    write_csv(tmp_path / "again.csv.xz", ROWS)
    assert (tmp_path / "again.csv.xz").read_bytes() == before
    write_csv(plain, ROWS)
    assert csv_path(plain) == plain and not compressed.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "not compressed"])
def test_a_damaged_table_is_reported(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "rows.csv.xz"
    write_csv(path, ROWS * 50)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    path.write_bytes({"cut": data[:-20], "flipped": data, "not compressed": b"organ,dice"}[damage])
    with pytest.raises(DataError, match=r"rows\.csv\.xz is damaged"):
        read_csv(path)


def test_a_folder_that_may_not_be_entered_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, stat, access = tmp_path / "locked", os.stat, os.access
    locked.mkdir()

    def refuse(path: Any, *arguments: Any, **more: Any) -> os.stat_result:
        if str(path).startswith(f"{locked}{os.sep}"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **more)

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and access(path, mode))
    with pytest.raises(StorageError, match="may not be written to"):
        check_folder(locked / "x")


@pytest.fixture
def other_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that, as far as renames go, is on another disk than all the rest."""
    folder, replace = tmp_path / "disk", os.replace
    folder.mkdir()

    def rename(source: Path, target: Path) -> None:
        inside = [folder in Path(path).parent.resolve().joinpath("x").parents for path in (source, target)]
        if inside[0] != inside[1]:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", rename)
    return folder


def test_results_go_to_a_folder_that_is_on_another_disk(tmp_path: Path, other_disk: Path) -> None:
    (tmp_path / "link").symlink_to(other_disk)
    for place in (other_disk, tmp_path / "link"):  # a mount point, and a link
        check_folder(place)
        with atomic_folder(place) as draft:
            write_text(draft / "model.json", str(place))
        assert [path.name for path in other_disk.iterdir()] == ["model.json"]
        assert (other_disk / "model.json").read_text() == str(place)


def test_results_go_to_a_folder_whose_parent_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, make = tmp_path / "closed" / "out", tempfile.mkdtemp
    out.mkdir(parents=True)

    def refuse(*arguments: Any, **more: Any) -> str:
        if Path(more["dir"]) == out.parent:
            raise PermissionError(errno.EACCES, "Permission denied", str(out.parent))
        return make(*arguments, **more)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    check_folder(out)
    with atomic_folder(out) as draft:
        write_text(draft / "model.json", "{}")
    assert [path.name for path in out.iterdir()] == ["model.json"] and list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("exists", [True, False])
def test_an_error_leaves_no_draft_in_the_folder_or_next_to_it(tmp_path: Path, exists: bool) -> None:
    out = tmp_path / "out"
    if exists:
        out.mkdir()
        (out / "model.json").write_text("older")

    def write() -> None:
        with atomic_folder(out) as draft:
            write_text(draft / "model.json", "newer")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == ({"out", "out/model.json"} if exists else set())
    assert not exists or (out / "model.json").read_text() == "older"


def test_a_name_as_long_as_names_may_be_is_taken(tmp_path: Path) -> None:
    out = tmp_path / ("x" * 255)
    check_folder(out)
    with atomic_folder(out) as draft:
        write_text(draft / "model.json", "{}")
    assert [path.name for path in out.iterdir()] == ["model.json"]


@pytest.mark.parametrize("below", ["", "run"])
def test_a_link_to_nowhere_is_refused_before_the_work(tmp_path: Path, below: str) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match=r"out is a link to .*gone, which is not there\. Make that folder or choose another"):
        check_folder(tmp_path / "out" / below)


def test_a_file_takes_the_place_of_a_link_not_of_what_it_points_to(tmp_path: Path, other_disk: Path) -> None:
    (other_disk / "rows.csv").write_text("somebody's")
    (tmp_path / "rows.csv").symlink_to(other_disk / "rows.csv")
    write_text(tmp_path / "rows.csv", "ours")
    assert (tmp_path / "rows.csv").read_text() == "ours" and not (tmp_path / "rows.csv").is_symlink()
    assert (other_disk / "rows.csv").read_text() == "somebody's"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free some space or choose another folder."),
        (errno.EDQUOT, "Free some space or choose another folder."),
        (errno.EACCES, "Change the permissions of the folder or choose another one."),
        (errno.EROFS, "Choose another folder."),
        (errno.EXDEV, "Choose another folder."),
        (errno.ENAMETOOLONG, "Choose a shorter name."),
    ],
)
def test_advice_fits_what_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    def write_folder(path: Path) -> None:
        with atomic_folder(path):
            pass

    for name in ("mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, fail)
    for write in (lambda path: write_text(path, "x"), write_folder):
        with pytest.raises(StorageError) as caught:
            write(tmp_path / "out")
        assert str(caught.value) == f"cannot write {tmp_path / 'out'}: {os.strerror(code)}. {advice}"
