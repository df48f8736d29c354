"""The gates of a block: how probable each of its edges is, given that the block is not empty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..choice import Choice

ON = 0  #: the option of a gate row that has the edge


@dataclass(frozen=True)
class Gates:
    """The edges of one block that run, and the probabilities p that they are on; None in a discrete network, which has no others.

    A block without an edge is not in the space: all probabilities are divided by 1 - prod(1 - p) (He et al. 2021, equation 3).
    """

    edges: Sequence[int]
    p: Tensor | None
    sampled: bool = False  #: p are draws of 0 and 1: nothing is divided, or the gradient of an empty block would explode

    def any_of(self, chosen: Iterable[int]) -> Tensor | None:
        """Return the probability that at least one of the edges ``chosen`` is on; None is 1."""
        if self.p is None:
            return None
        wanted = set(chosen)
        kept = [place for place, e in enumerate(self.edges) if e in wanted]
        return (1 - (1 - self.p[kept]).prod()) / self._total()

    def weights(self) -> dict[int, Tensor | None]:
        """Return the probability of each edge that runs; None is 1."""
        if self.p is None:
            return dict.fromkeys(self.edges)
        return dict(zip(self.edges, (self.p / self._total()).unbind(), strict=True))

    def _total(self) -> Tensor | float:
        assert self.p is not None
        if self.sampled:
            return 1.0
        return (1 - (1 - self.p).prod()).clamp(min=1e-6)


def read_gates(choice: Choice, block: int, edges: Sequence[int]) -> Gates:
    """Return the gates of a block whose edges are ``edges``."""
    rows = {e: f"block{block}/edge{e}" for e in edges}
    found = {e: choice.on(row, ON) for e, row in rows.items()}
    run = [e for e in edges if found[e][0]]
    sampled = any(row in choice.active for row in rows.values())
    if not run and not sampled:
        run = list(edges)  # each of them is improbable: pruning must not cut the network
    weights = [found[e][1] for e in run]
    if not run or any(weight is None for weight in weights):
        return Gates(run, None)
    return Gates(run, torch.stack(cast(list[Tensor], weights)), sampled)
