"""The door of card sections: ``@register_card_section("name")`` on a function of a run's record that returns a block, or None."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..registry import Registry


@dataclass(frozen=True)
class RunRecord:
    """What a section may read: the run's folder and its JSON files by name, such as ``adaptation``."""

    folder: Path
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """One section of a card: values, each with its source (file and key, measured, or given by the user)."""

    title: str
    values: Mapping[str, Any]
    sources: Mapping[str, str] = field(default_factory=dict)


CardSection = Callable[[RunRecord], Block | None]

CARD_SECTIONS: Registry[Block | None] = Registry("card section")
register_card_section = CARD_SECTIONS.register


def card_blocks(record: RunRecord) -> list[Block]:
    """Return the blocks of all registered sections that have something to say, by name."""
    blocks = (CARD_SECTIONS.build(name, record) for name in CARD_SECTIONS.names())
    return [block for block in blocks if block is not None]
