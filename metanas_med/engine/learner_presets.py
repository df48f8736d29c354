"""Task learners of the literature by name: a preset is a choice of parts, as YAML in ``configs/learners``."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from ..parse import read_yaml
from ..registry import Entry
from ..resources import find_resource, resource_dir

_FOLDER = "learners"


def preset_names() -> list[str]:
    """Return the names of the shipped presets."""
    return sorted(path.stem for path in (resource_dir("configs") / _FOLDER).glob("*.yaml"))


def preset_about(name: str) -> str:
    """Return the comment at the top of a preset: method, source, published values."""
    lines = find_resource("configs", name, _FOLDER).read_text(encoding="utf-8").splitlines()
    about = [
        line[1:].strip() for line in lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    ]
    return " ".join(about)


def read_learner_preset(name: str, section: str) -> dict[str, Any]:
    """Return the values of a preset for ``learner`` (meta-training) or ``adapt``; its key ``adapt`` is laid over the others there.

    Raises ConfigError, with the closest name, where no preset is called ``name``.
    """
    found = read_yaml(find_resource("configs", name, _FOLDER))
    if not isinstance(found, dict):
        raise ConfigError(f"learner preset {name}: expected keys of a learner, found {type(found).__name__}")
    own = found.pop("adapt", {})
    return {**found, **own} if section == "adapt" else found


class Presets:
    """The shipped presets, as ``metanas-med list`` shows the parts of a kind."""

    def entries(self) -> list[Entry[Any]]:
        """Return an entry a preset, sorted by name; its factory reads the values for meta-training."""
        return [_entry(name) for name in preset_names()]


def _entry(name: str) -> Entry[Any]:
    def read() -> dict[str, Any]:
        return read_learner_preset(name, "learner")

    read.__doc__ = preset_about(name)
    return Entry(name, read, None, "", "")


PRESETS = Presets()
