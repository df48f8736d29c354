"""The settings that the cells of a folder were made with: noted, compared and enforced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ...errors import ConfigError
from ...files import write_json

#: settings of a run that say where and how fast it is made, not what it is
NOT_FROZEN = frozenset({"device", "threads", "cache", "track"})


def hash_settings(*parts: BaseModel) -> str:
    """Return a short hash of settings with their defaults, which a later version may change."""
    values = [part.model_dump(mode="json") for part in parts]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def hold_settings(out: Path, given: Mapping[str, Any], earlier: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Raise ConfigError where ``out`` holds cells or meta-trained states of other settings than ``given``.

    Note ``given`` in an empty folder. ``earlier`` converts noted settings to today's format (see ``check_same``).
    """
    path = out / "settings.json"
    if path.exists():
        check_same(path, given, earlier)
    elif any((out / "cells").glob("*.json")) or any(out.glob("meta/*/*.json")):
        raise ConfigError(
            f"{out} holds cells, but no settings.json that says how they, or the states they start from, were made. Choose "
            "another --out."
        )
    else:
        write_json(path, given)


def check_same(path: Path, given: Mapping[str, Any], earlier: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Raise ConfigError where ``path``, the settings of a run's cells, is missing or differs from ``given``.

    ``earlier`` returns the noted settings as today's code would write them. Keys that are newer get their default, which must
    change nothing. It may raise ValidationError for settings of a version that this one cannot read.
    """
    try:
        known = earlier(read_settings(path))
    except ValidationError as error:
        raise ConfigError(
            f"{path} is of another version ({' '.join(str(error).split())[:200]}). Choose another --out."
        ) from error
    different = differences(given, known)
    if different:
        raise ConfigError(
            f"{path.parent} holds cells that were made under another setting of {different[0]}. Choose another --out."
        )


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Return the places, such as ``run.adapt.lr``, at which two JSON values differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = sorted({*one, *other})
        return [p for key in keys for p in differences(one.get(key), other.get(key), f"{place}.{key}".lstrip("."))]
    return [] if one == other else [place]


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a run's cells; ConfigError where they are missing."""
    if not path.is_file():
        raise ConfigError(
            f"{path.parent} holds no {path.name} that says how its cells were made, so they cannot be compared with others."
        )
    return json.loads(path.read_text())
