"""Each kind of part has a registry: a new part needs only a file in its package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from metanas_med.registry import Registry, import_parts

FILE = """from metanas_med.{0}.registry import register_{0}


@register_{0}("added")
def make(*arguments):
    return "made"
"""


@pytest.mark.parametrize("room", ["space", "learner", "meta", "pretext"])
def test_a_new_part_needs_only_a_new_file(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = importlib.import_module(f"metanas_med.{room}")
    names: Any = getattr(package, f"list_{room}s")
    door = importlib.import_module(f"metanas_med.{room}.registry")
    registry = next(value for value in vars(door).values() if isinstance(value, Registry))
    before = names()
    (tmp_path / "added.py").write_text(FILE.format(room))
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    try:
        import_parts(package.__name__, package.__path__)
        assert names() == sorted([*before, "added"]) and registry.build("added", 1) == "made"
    finally:
        sys.modules.pop(f"{package.__name__}.added", None)
        package.__dict__.pop("added", None)
