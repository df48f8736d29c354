"""The network of DiNTS in both forms: blocks of edges between what enters the grid and what leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..base import Body, Picks, Triple, fit_strides, level_sizes
from ..blocks.edge import add_all
from ..blocks.mix import mix
from ..blocks.mixture import Mixture
from ..blocks.operations import Source, fold, unfold
from ..choice import Choice
from .cost import expected_multiply_adds
from .ends import HouseEnds, NativeEnds
from .gates import ON, Gates, read_gates
from .parts import OPERATIONS, Down, Up, make_operation
from .topology import levels_of, topology_of

if TYPE_CHECKING:
    from .space import Dints


class Edge(nn.Module):
    """What changes the level (none within a level), then one of the operations: (B, cin, ...) to (B, cout, *size)."""

    def __init__(self, resample: nn.Module | None, operations: Mapping[str, nn.Module], width: int) -> None:
        super().__init__()
        if resample is not None:
            self.resample = resample
        self.ops = Mixture.of(operations, width, width)

    def forward(self, x: Tensor, step: tuple[Triple, Triple], choice: Choice, row: str) -> Tensor:
        """Return the output; ``step``: the stride between the two levels, and the size of the target."""
        if hasattr(self, "resample"):
            x = self.resample(x, *step)
        return self.ops(Source(x), choice, row)


class Classifier(nn.Conv3d):
    """A convolution of the first of several features."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(features[0])


class DintsBody(Body):
    """Blocks of edges. In a supernet an edge weighs p / (1 - prod(1 - p)) over the p of its block, the probability of being on.

    The house form returns one feature a level, finest first; a discrete network has those up to the coarsest level that it writes.
    The native form takes images and returns one feature at full resolution. In a supernet the features (tails) are weighed by the
    probability that their level or a coarser one is written, so that it equals the discrete network at one-hot alphas.
    """

    def __init__(self, space: Dints, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        s = space.settings
        native, grid = s.form == "native", topology_of(s.levels)
        patterns = space.patterns(picks) if picks is not None else [2 ** len(grid.edges) - 1] * s.num_blocks
        top = grid.writes(patterns[-1]).bit_length() - 1
        super().__init__(space, space.canonical(picks), s.native_widths[:1] if native else s.widths[: top + 1])
        self.takes_images, self.grid, self.patterns, self.top = native, grid, tuple(patterns), top
        if native:
            self.ends: HouseEnds | NativeEnds = NativeEnds(s.native_widths, s.num_channels, s.dims, generator)
        else:
            self.ends = HouseEnds(s.widths, levels_of(grid.reads(patterns[0])), top, generator)
        self.blocks = nn.ModuleDict()
        for block, pattern in enumerate(patterns):
            edges = {e: pair for e, pair in enumerate(grid.edges) if pattern >> e & 1}
            made = {f"edge{e}": self._edge(f"block{block}/edge{e}", pair, generator) for e, pair in edges.items()}
            self.blocks[f"block{block}"] = nn.ModuleDict(made)

    def _edge(self, row: str, pair: tuple[int, int], generator: torch.Generator | None) -> Edge:
        """Return the edge of a pair of levels with all operations, or with the one that was picked."""
        s, (source, target), native = self.settings, pair, self.takes_images
        cin, cout = s.grid_widths[source], s.grid_widths[target]
        kind = {-1: Up, 0: None, 1: Down}[target - source]
        names = list(OPERATIONS[s.dims]) if self.picks is None else [list(OPERATIONS[s.dims])[self.picks[f"{row}/op"]]]
        operations = {name: make_operation(name, cout, s.dims, native, generator) for name in names}
        return Edge(None if kind is None else kind(cin, cout, native, generator), operations, cout)

    def sizes(self, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[Triple], list[Triple]]:
        """Return the sizes of the levels and the strides between them; native ones begin with the image, whatever the strides."""
        levels = self.settings.levels
        steps = [(2, 2, 2)] * levels if self.takes_images else strides
        fitted = fit_strides(levels + self.takes_images, self.dims, steps)
        return level_sizes(shape, fitted), fitted

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one feature a level, finest first: (B, widths[l], X_l, Y_l, Z_l); native: one of (B, widths[0], X, Y, Z)."""
        choice, batch = self.choose(), x.shape[0]
        if self.dims == 2:  # slices across the coarsest axis become samples
            x = fold(x)
        sizes, steps = self.sizes(x.shape[2:], strides)
        first, last = self.gates(choice, 0), self.gates(choice, len(self.blocks) - 1)
        nodes = self._run(self.ends.start(x, sizes, self.reads(first)), sizes, steps, choice)
        found = self.ends.finish(nodes, sizes, self.used(last))
        empty = [x.new_zeros(x.shape[0], width, *size) for width, size in zip(self.widths, sizes, strict=False)]
        features = [zeros if f is None else f for f, zeros in zip(found, empty, strict=False)]
        return [unfold(f, batch) for f in features] if self.dims == 2 else features

    def _run(
        self, nodes: list[Tensor | None], sizes: Sequence[Triple], steps: Sequence[Triple], choice: Choice
    ) -> list[Tensor | None]:
        """Return what the last block writes to each level; None where nothing arrives."""
        start = int(self.takes_images)
        for block, edges in enumerate(self.blocks.values()):
            written: list[list[Tensor]] = [[] for _ in nodes]
            for e, weight in self.gates(choice, block).weights().items():
                source, target = self.grid.edges[e]
                x = nodes[source]
                if x is not None:  # a path that was sampled or pruned may end here
                    step = (steps[start + min(source, target)] if source != target else (1, 1, 1), sizes[start + target])
                    edge, row = cast(Edge, cast(nn.ModuleDict, edges)[f"edge{e}"]), f"block{block}/edge{e}"
                    with torch.set_grad_enabled(torch.is_grad_enabled() and not choice.is_detached(row, ON)):
                        out = edge(x, step, choice, f"{row}/op")
                    written[target].append(mix(out, weight))
            nodes = [add_all(parts) if parts else None for parts in written]
        return nodes

    def classifier(self, num_classes: int) -> nn.Module:
        """Return the last layer of the native form: a 1x1x1 convolution with bias of the one feature."""
        return Classifier(self.widths[0], num_classes, 1)

    def gates(self, choice: Choice, block: int) -> Gates:
        """Return which edges of a block run, and how probable they are."""
        return read_gates(choice, block, [e for e in range(len(self.grid.edges)) if self.patterns[block] >> e & 1])

    def reads(self, gates: Gates) -> list[int]:
        """Return the levels that a block reads."""
        return sorted({self.grid.edges[e][0] for e in gates.edges})

    def used(self, gates: Gates) -> dict[int, Tensor | None]:
        """Return for each level the probability that the last block writes it or a coarser one (None: 1); others are absent."""
        targets = {e: self.grid.edges[e][1] for e in gates.edges}
        top = max(targets.values(), default=-1)
        return {level: gates.any_of(e for e, target in targets.items() if target >= level) for level in range(top + 1)}

    def expected_multiply_adds(self, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> Tensor:
        """Return the mean multiply-adds of one sample over architectures drawn from the alphas: a scalar with gradients."""
        choice = replace(self.relaxed, prune=0.0).choose({name: getattr(self.alphas, name) for name in self.rows()})
        return expected_multiply_adds(self, choice, shape, strides)
