"""Tables on disk."""

from __future__ import annotations

import lzma
import os
from pathlib import Path
from typing import Any

import pytest

from metanas_med.errors import DataError, StorageError
from metanas_med.files import check_folder, csv_path, read_csv, write_csv

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
def test_a_damaged_table_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "rows.csv.xz"
    write_csv(path, ROWS * 50)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    path.write_bytes({"cut": data[:-20], "flipped": data, "not compressed": b"organ,dice"}[damage])
    with pytest.raises(DataError, match=r"rows\.csv\.xz is damaged"):
        read_csv(path)


def test_a_folder_that_may_not_be_entered_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
