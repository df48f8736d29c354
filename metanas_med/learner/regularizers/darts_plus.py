"""DARTS+: the search ends when a cell has two skips."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from ...space import genotype
from ...space.base import Row
from ...space.network import SegmentationNet
from ..episode import Task
from .base import Combination, Moment, RegularizerSettings, Watcher, register_regularizer
from .r_darts import needs_discretizer

log = logging.getLogger(__name__)


class DartsPlusSettings(RegularizerSettings):
    """How many skips end the search."""

    name: str = "darts_plus"
    limit: int = Field(default=2, ge=1)  #: the search ends when a cell has so many skips
    options: tuple[str, ...] = ("identity", "skip", "skip_connect")  #: options of edges that count as skips
    warm_up: int = Field(default=0, ge=0)  #: first alpha steps that cannot end the search


def skips_of(picks: Mapping[str, str], rows: Mapping[str, Row], options: tuple[str, ...]) -> Counter[str]:
    """Return the number of skips by cell: rows of type ``one`` of ``picks`` whose option counts as one.

    A cell is what row names have before the first slash.
    """
    chosen = [name for name, option in picks.items() if rows[name].type == "one" and option in options]
    return Counter(name.partition("/")[0] for name in chosen)


@register_regularizer(
    "darts_plus",
    settings=DartsPlusSettings,
    source="DARTS+, Liang et al. 2019, arXiv 1909.06035",
    needs="a discretizer, and a space whose edges may be skips",
    costs="a genotype per alpha step",
    refuses="discretizer none, relaxations whose alphas do not move, spaces without a skip among the options of their edges",
)
class DartsPlus:
    """The search ends after the first alpha step at which a cell of the genotype has two skips."""

    def __init__(self, settings: DartsPlusSettings) -> None:
        self.settings = settings

    def on(self, net: SegmentationNet, task: Task) -> None:
        """Return no penalty."""

    def watch(self, net: SegmentationNet) -> Watcher:
        """Return what ends a run."""
        s, rows = self.settings, net.body.space.rows()

        def watcher(moment: Moment) -> Mapping[str, Tensor] | None:
            if moment.number <= s.warm_up:
                return None
            found = skips_of(genotype(moment.net.body)["picks"], rows, s.options)
            if not found or max(found.values()) < s.limit:
                return None
            log.info("darts_plus: the search ends after %d alpha steps; skips by cell: %s", moment.number, dict(found))
            return {name: row.detach().clone() for name, row in moment.net.alphas().items()}

        return watcher

    def reason_against(self, combination: Combination) -> str:
        """Return why the combination is impossible; empty if it is not."""
        s, rows = self.settings, combination.rows
        if reason := needs_discretizer(combination):
            return reason
        if rows is not None and not any(row.type == "one" and set(row.options) & set(s.options) for row in rows.values()):
            return (
                f"no edge of this space has one of the options {', '.join(s.options)}. "
                "Name its skips by `options` of darts_plus, or leave darts_plus out."
            )
        return ""
