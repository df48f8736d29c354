"""The network of NAS-Unet: cells on a U, in the house form and in the authors'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from ..base import Body, Picks, Row, Triple, fit_strides
from ..blocks.edge import Edge, Read, add_all, merge_reads
from ..blocks.norm import Norm
from ..blocks.operations import Source, build_candidate, fold, unfold
from ..blocks.upward import UpSource
from ..candidate_sets import draw_real
from ..choice import Choice
from ..registry import register_space
from . import picks as rules
from .expected import expected_multiply_adds
from .native import NATIVE, NormedConv, draw_weights, kernel_size
from .settings import Kind, NasUnetSettings, edge_names, edge_weight_rows, inputs_of, rows_of


class Entry(nn.Module):
    """What brings an input of a cell to the width of its nodes, in the house form: a 1x1x1 convolution, norm, leaky ReLU."""

    def __init__(self, cin: int, cout: int, dims: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.conv = build_candidate("conv111", cin, cout, dims, generator)
        self.norm = Norm(cout)

    def forward(self, x: Tensor, stride: Triple = (1, 1, 1)) -> Tensor:
        """Return (B, cout, ...) of (B, cin, ...), rounded up where strided."""
        return self.norm(self.conv(Source(x, stride)))


class Last(nn.Conv3d):
    """The last layer of the native form: a convolution of the one feature that its body returns."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(features[0])


class NativeEdge(Edge):
    """The authors' operations between an input and a node."""

    def __init__(self, names: Sequence[str], c: int, dims: int) -> None:
        nn.ModuleDict.__init__(self, {name: NATIVE[name](c, dims) for name in names})
        self.cin, self.cout, self.separate = 0, c, False  # without inputs of its own: all channels go through (partial.py)


class Cell(nn.ModuleDict):
    """``s0`` and ``s1`` bring the inputs to the width ``c`` of the nodes; ``n0`` -> edges by input. A node is the sum of its edges."""

    def __init__(
        self, body: NasUnetBody, kind: Kind, inputs: tuple[int, int], c: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        settings, picks, dims = cast(NasUnetSettings, body.settings), body.picks, body.dims
        self.kind: Kind = kind
        native = settings.form == "native"
        for name, cin in zip(("s0", "s1"), inputs, strict=True):
            self[name] = NormedConv(cin, c, (1, 1, 1), relu=True) if native else Entry(cin, c, dims, generator)
        for node in range(settings.num_nodes):
            edges = nn.ModuleDict()
            for before in inputs_of(node) if picks is None else rules.chosen_inputs(picks, kind, node):
                names = edge_names(settings, kind, before)
                if picks is not None:
                    names = (names[picks.get(f"{kind}/n{node}/{before}", 0)],)
                edges[before] = NativeEdge(names, c, dims) if native else Edge(names, c, c, dims, False, generator)
            self[f"n{node}"] = edges
        self.num_nodes = settings.num_nodes

    def reads(self, choice: Choice) -> list[dict[str, Read]]:
        """Return what each node reads in a forward pass: input -> Read, without what is too improbable to run."""
        found = []
        for node in range(self.num_nodes):
            row, edges = f"{self.kind}/n{node}", cast(nn.ModuleDict, self[f"n{node}"])
            names = list(edges)
            betas = choice.edge_weights(f"{row}/edges", names)
            reads = {}
            for before, weight in choice.inputs(f"{row}/pair", names).items():
                beta, edge, own = betas[before], cast(Edge, edges[before]), f"{row}/{before}"
                if beta is not None:
                    weight = beta if weight is None else weight * beta
                p, keep = choice.rows.get(own), choice.options(own, len(edge))
                reads[before] = Read(edge, weight, p, keep, choice.detached.get(own, ()), choice.partial, choice.skip)
            found.append(reads)
        return found

    def forward(self, s0: Tensor, s1: Tensor, strides: tuple[Triple, Triple], reads: list[dict[str, Read]]) -> Tensor:
        """Return the nodes, concatenated.

        ``strides``: a down cell's from s0 to s1, and its own; an up cell's own second one is the stride from s1 to s0.
        """
        first = self["s0"](s0, strides[0])
        second = self["s1"](s1)
        sources: dict[str, Source] = {}
        if self.kind == "down":
            sources = {"s0": Source(first, strides[1]), "s1": Source(second, strides[1])}
        else:
            sources = {"s0": Source(first), "s1": UpSource(second, strides[1], first.shape[2:])}
        nodes = []
        for node, edges in enumerate(reads):
            nodes.append(add_all([read.edge(sources[before], read) for before, read in edges.items()]))
            sources[f"n{node}"] = Source(nodes[-1])
        return torch.cat(nodes, 1)


class NasUnetBody(Body):
    """Down cells, then up cells with horizontal skips; all down cells share their rows, and all up cells theirs."""

    def __init__(self, space: NasUnet, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        settings = space.settings
        canonical = None if picks is None else rules.canonical_picks(settings, space.rows(), picks)
        super().__init__(space, canonical, settings.widths)
        self.takes_images = self.native = settings.form == "native"
        count, c = settings.num_nodes, settings.base_width
        self.stems = nn.ModuleDict()
        if self.native:
            size = kernel_size(self.dims)
            self.stems["stem0"] = NormedConv(settings.num_channels, 4 * c, (1, 1, 1), relu=False)
            self.stems["stem1"] = NormedConv(settings.num_channels, 4 * c, size, relu=False)
            widths = [4 * c, 4 * c, *([count * c] * (settings.levels - 2))]
        else:
            widths = list(self.widths)
        nodes = [c if self.native else width // count for width in widths]
        self.cells = nn.ModuleDict()
        for level in range(2 if self.native else 1, settings.levels):
            inputs = widths[max(level - 2, 0)], widths[level - 1]
            self.cells[f"down{level}"] = Cell(self, "down", inputs, nodes[level], generator)
        for level in range(settings.levels - 2, -1, -1):
            below = widths[level + 1] if level == settings.levels - 2 else count * nodes[level + 1]
            self.cells[f"up{level}"] = Cell(self, "up", (widths[level], below), nodes[level], generator)
        if self.native:
            draw_weights(self, generator)

    def classifier(self, num_classes: int) -> nn.Module:
        """Return the last layer of the native form: a 1x1 convolution without bias."""
        return Last(self.widths[0], num_classes, 1, bias=False)

    def decoder(self) -> frozenset[str]:
        """Return the names of the weights of the up cells."""
        return frozenset(n for n in self.weights() if n.startswith("cells.up"))

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]] = ()) -> list[Tensor]:
        """Return one feature a level, finest first: (B, widths[l], X_l, Y_l, Z_l); the native form one, of images, at full size."""
        levels, batch = self.settings.levels, x.shape[0]
        steps = [(2, 2, 2)] * (levels - 1) if self.native else strides
        steps = fit_strides(levels, self.dims, steps)
        if self.dims == 2:  # slices across the coarsest axis become samples
            x = fold(x)
        features = self._run(x, steps, self.choose())
        if self.native:
            features = features[:1]
        return [unfold(f, batch) for f in features] if self.dims == 2 else features

    def _run(self, x: Tensor, steps: list[Triple], choice: Choice) -> list[Tensor]:
        cells = cast(Mapping[str, Cell], self.cells)
        reads = {name: cell.reads(choice) for name, cell in cells.items()}
        merge_reads([read for nodes in reads.values() for edges in nodes for read in edges.values()])
        encoded = [self.stems["stem0"](x), self.stems["stem1"](x, steps[0])] if self.native else [x]
        one = (1, 1, 1)
        for level in range(len(encoded), len(steps) + 1):
            before, name = encoded[max(level - 2, 0)], f"down{level}"
            strides = (steps[level - 2] if level > 1 else one, steps[level - 1])
            encoded.append(cells[name](before, encoded[-1], strides, reads[name]))
        features = [encoded[-1]]
        for level in range(len(steps) - 1, -1, -1):
            name = f"up{level}"
            features.append(cells[name](encoded[level], features[-1], (one, steps[level]), reads[name]))
        return features[::-1]

    def expected_multiply_adds(self, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> Tensor:
        """Return the mean multiply-adds of one sample over architectures drawn from the alphas: a scalar with gradients."""
        choice = self._chosen(replace(self.relaxed, prune=0.0))
        return expected_multiply_adds(self, choice, shape, strides)


@register_space(
    "nas_unet",
    settings=NasUnetSettings,
    source="Weng et al. 2019, IEEE Access, NAS-Unet; written from a description",
)
class NasUnet:
    """A U of one down cell and one up cell, each shared by all levels: operations of edges and inputs of nodes are searched."""

    def __init__(self, settings: NasUnetSettings) -> None:
        self.settings = settings
        self._rows = rows_of(settings)

    def rows(self) -> Mapping[str, Row]:
        """Return every decision by name (``settings.rows_of``)."""
        return self._rows

    def edges(self) -> Mapping[str, tuple[str, ...]]:
        """Return the inputs of every node by the name of the row of their weights."""
        return edge_weight_rows(self.settings)

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> NasUnetBody:
        """Return the supernet, or the network of ``picks``."""
        return NasUnetBody(self, picks, generator)

    def canonical(self, picks: Picks) -> dict[str, int]:
        """Return those of complete picks that decide something."""
        return rules.canonical_picks(self.settings, self._rows, picks)

    def decode(self, probabilities: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the picks that the paper reads off (``picks.decode``)."""
        return rules.decode(self.settings, self._rows, probabilities)

    def draw(self, generator: torch.Generator | None = None) -> dict[str, int]:
        """Return uniform picks; ``none`` is never drawn."""
        return draw_real(self._rows, generator)

    def reason_against(self, picks: Picks) -> str:
        """Return why ``picks`` are no architecture, empty if they are one."""
        return rules.reason_against(self.settings, self._rows, picks)

    def published(self) -> Mapping[str, Mapping[str, str]]:
        """Return ``nasunet``, the retrained architecture (``picks.published``): form native, c 32 or 48, levels 6 or 7."""
        return rules.published()
