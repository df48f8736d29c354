"""The location of the shipped YAML files: the checkout's top-level folders, or the copies inside an installed package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from .errors import ConfigError, suggest

Kind = Literal["tasks", "configs"]


def resource_dir(kind: Kind) -> Path:
    """Return the folder of the shipped YAML files of one kind: in the checkout if there is one, else the packaged copy."""
    checkout = Path(__file__).parents[1]
    # site-packages may contain an unrelated folder "tasks"; a checkout also has a pyproject.toml
    if (checkout / "pyproject.toml").is_file() and any((checkout / kind).glob("*.yaml")):
        return checkout / kind
    return Path(__file__).parent / f"_{kind}"


def find_resource(kind: Kind, name: str | Path, folder: str = "") -> Path:
    """Return the YAML file that ``name`` refers to: an existing path, or the stem of a shipped file (in its kind's ``folder``).

    Raises ConfigError, with a similar name, if there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in sorted((resource_dir(kind) / folder).glob("*.yaml"))}
    stem = str(name).removesuffix(".yaml")
    if stem not in shipped:
        raise ConfigError(f"no file and no shipped {folder or kind} entry is called {str(name)!r}; {suggest(stem, shipped)}")
    return shipped[stem]
