"""The door of exports: ``@register_export("name")`` on a function of a model and a folder that returns the files it wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..engine.model import Model
from ..errors import StorageError
from ..files import atomic_folder
from ..registry import Registry

Export = Callable[[Model, Path], list[Path]]

EXPORTS: Registry[list[Path]] = Registry("export")
register_export = EXPORTS.register


def check_new(out: Path | str) -> Path:
    """Return the folder of an export; StorageError if it exists."""
    if Path(out).exists():
        raise StorageError(f"{out} exists already. Choose another --out.")
    return Path(out)


def export(model: Model, name: str, out: Path | str) -> list[Path]:
    """Return the files that the export ``name`` wrote to the new folder ``out``: all of them, or nothing.

    Raises ConfigError for an unknown name, StorageError where ``out`` exists.
    """
    EXPORTS.check(name)
    out = check_new(out)
    with atomic_folder(out) as draft:
        written = [path.relative_to(draft) for path in EXPORTS.build(name, model, draft)]
    return [out / path for path in written]
