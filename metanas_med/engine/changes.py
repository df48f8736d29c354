"""What has changed between a checkpoint and the run that goes on from it: settings and data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.cached import CachedDataset
from .older import settings_of_today
from .settings import Settings

#: changes that are named; a run in which everything differs would fill the screen
_SHOWN = 12


def changed_settings(noted: Mapping[str, Any], now: Settings) -> list[str]:
    """Return ``section.key: old -> new`` for each setting in a checkpoint's note that differs from today's."""
    before = settings_of_today(noted)
    try:  # keys that are newer than the note have their defaults; settings that are no longer valid are compared as they are
        before = Settings.model_validate(before).model_dump(mode="json")
    except ValueError:
        pass
    lines = _differences(_without_places(before), _without_places(now.model_dump(mode="json")))
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"and {len(lines) - _SHOWN} more"]


def _without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without their folders: checkpoints do not hold them, and data sets are compared by content."""
    found = {key: value for key, value in values.items() if key != "cache"}
    tasks = found.get("tasks")
    if isinstance(tasks, Mapping) and isinstance(tasks.get("distribution"), str):
        found["tasks"] = {**tasks, "distribution": Path(tasks["distribution"]).stem}
    return found


def _differences(before: Any, after: Any, place: str = "") -> list[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = list(dict.fromkeys([*after, *before]))
        return [line for key in keys for line in _differences(before.get(key), after.get(key), f"{place}.{key}".lstrip("."))]
    return [] if before == after else [f"{place}: {_shown(before)} -> {_shown(after)}"]


def _shown(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def describe_data(sets: Sequence[CachedDataset]) -> dict[str, str]:
    """Return number of scans and a hash of their content for each data set, by name."""
    return {data.name: f"{len(data.cases)} scans {_hash(data)}" for data in sets}


def _hash(data: CachedDataset) -> str:
    content = [(c.name, c.content_hash, sorted(c.label_voxels.items())) for c in data.cases]
    return hashlib.sha256(json.dumps([content, sorted(data.labels.items())]).encode()).hexdigest()[:12]


def changed_data(before: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    """Return which data sets are new, gone or have other scans; nothing for a checkpoint that did not note them."""
    if before is None:
        return []
    lines = [f"data set {name} is new" for name in now if name not in before]
    lines += [f"data set {name} is not used any more" for name in before if name not in now]
    for name in now:
        if name in before and before[name] != now[name]:
            old, new = (text.rpartition(" ")[0] for text in (before[name], now[name]))
            lines.append(f"data set {name} has other scans or labels ({old} -> {new})")
    return lines
