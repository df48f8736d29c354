"""Nodes and cells: sums of edges, one normalisation and activation a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ..base import Triple
from ..choice import Choice
from .edge import Edge, Read, add_all
from .mix import mix
from .norm import Norm
from .operations import Source, build_candidate


@dataclass(frozen=True)
class CellPlan:
    """One cell. ``None`` for ``residual`` or ``skip`` means that it is searched."""

    name: str  #: enc0, down1, ..., up0
    kind: Literal["enc", "down", "up"]
    level: int  #: of the output; 0 is full resolution
    width: int  #: channels of every node
    inputs: dict[str, int]  #: s0 (and s1) -> channels
    nodes: tuple[dict[str, tuple[str, ...]], ...]  #: predecessor -> candidates; an empty node is never run
    pairs: bool  #: nodes of three and more predecessors choose two
    residual: bool | None
    skip: bool | None = True
    below: int = 0  #: up cells: channels of the feature from the level below

    @property
    def first(self) -> str | None:
        """Return the name of what a residual adds: the first node, the input s0, or None where nothing has the right shape."""
        if len(self.nodes) > 1:
            return "n0"
        return "s0" if self.kind in ("enc", "up") else None


class Node(nn.ModuleDict):
    """The edges of a node (predecessor -> Edge) and its norm."""


class Cell(nn.ModuleDict):
    """The nodes of a cell that are run (``n0`` -> Node); up cells also hold the 1x1x1 projection of the level below."""

    def __init__(self, plan: CellPlan, dims: int, separate: bool, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.plan = plan
        if plan.kind == "up":
            self["project"] = build_candidate("conv111", plan.below, plan.width, dims, generator)
        for index, edges in enumerate(plan.nodes):
            if edges:
                node = Node()
                for before, names in edges.items():
                    node[before] = Edge(names, plan.inputs.get(before, plan.width), plan.width, dims, separate, generator)
                node["norm"] = Norm(plan.width)
                self[f"n{index}"] = node

    def reads(self, choice: Choice) -> dict[str, dict[str, Read]]:
        """Return what each node reads in a forward pass: node -> predecessor -> Read, without what is too improbable to run."""
        plan = self.plan
        keep_skip, skip = self._skip(choice)
        found: dict[str, dict[str, Read]] = {}
        for index, edges in enumerate(plan.nodes):
            name = f"n{index}"
            if not edges:
                continue
            found[name] = {}
            betas = choice.edge_weights(f"{plan.name}/{name}/edges", list(edges))
            for before, weight in choice.inputs(f"{plan.name}/{name}/pair", list(edges)).items():
                if (beta := betas[before]) is not None:
                    weight = beta if weight is None else weight * beta
                if before == "s0" and not keep_skip:
                    continue
                if before == "s0" and skip is not None:  # p * op(x) = op(p * x): the scale goes into the kernel
                    weight = skip if weight is None else weight * skip
                row = f"{plan.name}/{name}/{before}"
                edge = cast(Edge, cast(Node, self[name])[before])
                p, keep = choice.rows.get(row), choice.options(row, len(edge))
                found[name][before] = Read(edge, weight, p, keep, choice.detached.get(row, ()), choice.partial, choice.skip)
        return found

    def _skip(self, choice: Choice) -> tuple[bool, Tensor | None]:
        return choice.on(f"{self.plan.name}/skip", 0) if self.plan.skip is None else (self.plan.skip, None)

    def forward(
        self,
        inputs: dict[str, Tensor],
        stride: Triple,
        choice: Choice,
        reads: dict[str, dict[str, Read]],
        need_first: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the cell's output and, if asked for, what its first node gave; only nodes that are read are run."""
        plan = self.plan
        sources = {name: Source(x, stride) for name, x in inputs.items()}

        out = self._node(f"n{len(plan.nodes) - 1}", sources, reads)
        keep_skip, skip = self._skip(choice)
        first = plan.first
        keep, p = (plan.residual, None) if plan.residual is not None else choice.on(f"{plan.name}/residual", 1)
        if keep and first and not (first == "s0" and not keep_skip):
            if first == "s0" and skip is not None:
                p = skip if p is None else p * skip
            out = mix(out, None, self._node(first, sources, reads), p)
        return out, (self._node("n0", sources, reads) if need_first and len(plan.nodes) > 1 else None)

    # a function within forward that calls itself would be a reference cycle, which keeps the maps of each step in memory
    def _node(self, name: str, sources: dict[str, Source], reads: dict[str, dict[str, Read]]) -> Tensor:
        """Return what the node ``name`` gives, and add it and all that it needs to ``sources``."""
        if name not in sources:
            outputs = []
            for before, read in reads[name].items():
                self._node(before, sources, reads)
                outputs.append(read.edge(sources[before], read))
            sources[name] = Source(cast(Norm, cast(Node, self[name])["norm"])(add_all(outputs)))
        return sources[name].x
