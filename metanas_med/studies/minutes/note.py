"""What ``adapt --minutes`` says of itself, as the columns of the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Told:
    """The name of the configuration that was chosen, and the expected Dice with its interval; empty where it says nothing."""

    chosen: str = ""
    expected: float | str = ""
    low: float | str = ""
    high: float | str = ""


def told_by(note: Mapping[str, Any]) -> Told:
    """Return what the note of an adaptation says."""
    found = note.get("minutes") or {}
    expected, chosen = found.get("expected") or {}, found.get("chosen") or "default"
    name = chosen.get("name", "default") if isinstance(chosen, Mapping) else str(chosen)
    return Told(name, *(_rounded(expected.get(key)) for key in ("dice", "low", "high")))


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(float(value), 5)
