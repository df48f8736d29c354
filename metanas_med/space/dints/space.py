"""The search space of DiNTS: which edges of a grid exist, and what each of them does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError
from ..base import Picks, Row
from ..registry import register_space
from .body import DintsBody
from .gates import ON
from .parts import OPERATIONS
from .published import dints_cvpr
from .settings import DintsSettings
from .topology import Patterns, topology_of


@register_space(
    "dints",
    settings=DintsSettings,
    source="DiNTS, He et al. 2021, arXiv 2103.15954; native form as in MONAI 1.5 (networks/nets/dints.py)",
    refuses="topologies in which a block does not read exactly the levels that the block before it writes",
)
class Dints:
    """A grid of blocks and levels. Every block has an edge from each level to itself and its neighbours, with one operation each.

    ``block{b}/edge{e}`` (gate): is the edge on. ``block{b}/edge{e}/op``: its operation. The gates are decided together: a legal
    topology has no loose end. 4 levels have 10 edges a block, in the order of the published codes: sorted by target, then by source.
    """

    def __init__(self, settings: DintsSettings) -> None:
        self.settings = settings
        self.grid = topology_of(settings.levels)
        self._rows: dict[str, Row] = {}
        for name in self._gates():
            self._rows[name] = Row(("on", "off"), "gate")
            self._rows[f"{name}/op"] = Row(tuple(OPERATIONS[settings.dims]))

    def _gates(self) -> Iterator[str]:
        for block in range(self.settings.num_blocks):
            for e in range(len(self.grid.edges)):
                yield f"block{block}/edge{e}"

    def rows(self) -> Mapping[str, Row]:
        """Return the gate and the operation of every edge."""
        return self._rows

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> DintsBody:
        """Return the supernet, or the network of ``picks``. Raises ConfigError where their topology is not legal."""
        if picks is not None and (reason := self.reason_against(picks)):
            raise ConfigError(f"dints: {reason}")
        return DintsBody(self, picks, generator)

    def patterns(self, picks: Picks) -> Patterns:
        """Return the edges of each block that are on, as bits; an edge without a pick is on."""
        edges = range(len(self.grid.edges))
        gates = [[picks.get(f"block{b}/edge{e}", ON) == ON for e in edges] for b in range(self.settings.num_blocks)]
        return tuple(sum(1 << e for e, on in enumerate(block) if on) for block in gates)

    def canonical(self, picks: Picks | None) -> dict[str, int] | None:
        """Return the picks that decide something: all gates, and the operations of edges that are on."""
        if picks is None:
            return None
        gates = {name: picks.get(name, ON) for name in self._gates()}
        found: dict[str, int] = {}
        for name, gate in gates.items():
            found[name] = gate
            if gate == ON:
                found[f"{name}/op"] = picks.get(f"{name}/op", 0)
        return found

    def _with(self, picks: Picks, patterns: Patterns) -> dict[str, int]:
        """Return ``picks`` with the gates of ``patterns``; edges that were off have the first operation."""
        edges = range(len(self.grid.edges))
        gates = {f"block{b}/edge{e}": int(not p >> e & 1) for b, p in enumerate(patterns) for e in edges}
        return self.canonical({**picks, **gates}) or {}

    def reason_against(self, picks: Picks) -> str:
        """Return why the topology of ``picks`` is not legal; empty if it is."""
        return self.grid.reason_against(self.patterns(picks))

    def decode(self, probabilities: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the most probable legal topology with the most probable operation of each of its edges.

        A topology's probability is the product over its gates. It is a shortest path of blocks (section 3.3 of the paper).
        """
        gates = torch.stack([probabilities[name].detach()[ON] for name in self._gates()]).double().cpu().numpy()
        patterns = self.grid.most_probable(np.clip(gates, 0.0, 1.0).reshape(self.settings.num_blocks, -1))
        operations = {name: int(row.argmax()) for name, row in probabilities.items() if name.endswith("/op")}
        return self._with(operations, patterns)

    def draw(self, generator: torch.Generator | None = None) -> dict[str, int]:
        """Return a random architecture: every legal topology is equally probable, and so is every operation of its edges."""
        patterns = self.grid.draw(self.settings.num_blocks, generator)
        names, count = list(self._gates()), len(OPERATIONS[self.settings.dims])
        operations = torch.randint(count, (len(names),), generator=generator).tolist()
        return self._with({f"{name}/op": o for name, o in zip(names, operations, strict=True)}, patterns)

    def edits(self, picks: Picks) -> Iterator[dict[str, int]]:
        """Yield the smallest legal edits: another operation of an edge, or an edge on or off with the fewest other gates changed.

        An edge that is switched on has the first operation.
        """
        own = self.canonical(picks) or {}
        for name, option in own.items():
            for other in range(len(self._rows[name].options) if name.endswith("/op") else 0):
                if other != option:
                    yield {**own, name: other}
        patterns = self.patterns(picks)
        seen = {patterns}
        for block in range(len(patterns)):
            for e in range(len(self.grid.edges)):
                near = self._flipped(patterns, block, e)
                if near is not None and near not in seen:
                    seen.add(near)
                    yield self._with(own, near)

    def _flipped(self, patterns: Patterns, block: int, e: int) -> Patterns | None:
        """Return the legal topology nearest to ``patterns`` in which an edge is changed; None where there is none."""
        alone = (*patterns[:block], patterns[block] ^ 1 << e, *patterns[block + 1 :])
        if not self.grid.reason_against(alone):
            return alone
        near = self.grid.nearest(patterns, block, e)
        return near if (near[block] ^ patterns[block]) >> e & 1 else None

    def published(self) -> Mapping[str, Mapping[str, str]]:
        """Return ``dints_cvpr`` for 12 blocks of 4 levels in 3D; nothing for other sizes. Published with the native form's widths."""
        s = self.settings
        return {"dints_cvpr": dints_cvpr()} if (s.num_blocks, s.levels, s.dims) == (12, 4, 3) else {}
