"""Exports: one is added in one file; it writes all or nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import metanas_med.export as room
from metanas_med.errors import ConfigError, StorageError
from metanas_med.export import EXPORTS, export
from metanas_med.registry import import_parts

ADDED = '''
from metanas_med.export import register_export


@register_export("organs")
def organs(model, folder):
    """A text file with the names of the organs."""
    path = folder / "organs.txt"
    path.write_text("\\n".join(model.task.names))
    if "broken" in model.task.names:
        raise RuntimeError("half-way")
    return [path]
'''


def model(*names: str) -> Any:
    return cast(Any, SimpleNamespace(task=SimpleNamespace(names=names)))


def test_an_export_is_added_in_one_file_and_writes_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(ADDED.splitlines()) < 50
    (tmp_path / "added_organs.py").write_text(ADDED)
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    with EXPORTS.extended():
        import_parts(room.__name__, room.__path__)
        written = export(model("liver", "spleen"), "organs", tmp_path / "out")
        assert written == [tmp_path / "out" / "organs.txt"] and written[0].read_text() == "liver\nspleen"
        with pytest.raises(StorageError, match="exists already"):
            export(model("liver"), "organs", tmp_path / "out")
        with pytest.raises(RuntimeError):
            export(model("broken"), "organs", tmp_path / "other")
        assert not (tmp_path / "other").exists()
    with pytest.raises(ConfigError, match="unknown export"):
        export(model("liver"), "organs", tmp_path / "third")
    sys.modules.pop(f"{room.__name__}.added_organs", None)
