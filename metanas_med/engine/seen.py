"""What a start has already seen: the data set that it is adapted to, some of its scans, or data sets related to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..data.cached import CachedDataset
from ..data.cards import held_out_datasets, load_cards
from ..privacy import HASH_DIGITS, known_names
from .meta_run import MetaRun

_UNNAMED = "a data set without a card"


class Named(Protocol):
    """A data set with its relations."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def related(self) -> tuple[str, ...]: ...


def seen_in_training(found: Named, run: MetaRun) -> list[str]:
    """Return the names of training data sets of ``run`` that are this data set or that a card relates to it."""
    trained = {key.split("/", 1)[0] for key in run.train_tasks}
    known: dict[str, tuple[str, str, tuple[str, ...]]] = {name: (name, name, ()) for name in trained}  # not all have a card
    known |= {c.dataset: (c.dataset, c.group, c.related) for c in load_cards().values()}
    known[found.name] = (found.name, found.group, found.related)
    return sorted(trained & held_out_datasets([found.name, found.group], known.values()))


@dataclass(frozen=True)
class Seen:
    """What a start has learned from before it is adapted to a data set."""

    itself: bool  #: the data set, by name or by at least one of its scans
    related: tuple[str, ...]  #: other data sets that share an organ or patients with it
    support: int  #: scans of the support, by their voxels
    scored: int  #: scans that are scored, by their voxels

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for a note that is shared: names without a shipped card are left out."""
        related = [name if name in known_names() else _UNNAMED for name in self.related]
        return {"this_data_set": self.itself, "related": related, "support": self.support, "scored": self.scored}


def find_seen(run: MetaRun, data: CachedDataset, support: Collection[str], scored: Collection[str]) -> Seen | None:
    """Return what ``run`` has seen of ``data``; None if nothing. ``support`` and ``scored`` are names of cases.

    The name of the data set decides, and the content of its scans: a renamed folder is recognised.
    """
    same = {case.name for case in data.cases if case.content_hash[:HASH_DIGITS] in run.scans}
    trained = {key.split("/", 1)[0] for key in run.train_tasks}
    related = tuple(name for name in seen_in_training(data, run) if name != data.name)
    itself = data.name in trained or bool(same)
    if not itself and not related:
        return None
    return Seen(itself, related, len(same.intersection(support)), len(same.intersection(scored)))


def seen_line(seen: Mapping[str, Any]) -> str:
    """Return one line about a note's ``start_has_seen``."""
    if seen["this_data_set"]:
        return "the start has learned from this data set: its scores here are not a test of a new organ"
    named = ", ".join(dict.fromkeys(seen["related"]))
    return f"the start has learned from {named}, related to this data set: its scores here are not a test of a new organ"
