"""Mixed edges, nodes and cells: sums of (merged) candidates, one normalisation and activation a node."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .choice import Choice
from .merge import merge_kernels
from .mix import mix
from .norm import Norm
from .operations import Candidate, Source, build_candidate, convolve
from .plan import CellPlan, Triple


class Edge(nn.ModuleDict):
    """The candidates between two places: name -> Candidate."""

    def __init__(
        self, names: tuple[str, ...], cin: int, cout: int, dims: int, separate: bool, generator: torch.Generator | None
    ) -> None:
        super().__init__({name: build_candidate(name, cin, cout, dims, generator) for name in names})
        self.separate = separate

    def forward(self, source: Source, weight: Tensor | None, p: Tensor | None, keep: list[int]) -> Tensor:
        """Return ``weight * sum_o p[o] * gain_o * op_o(x)``: (B, cout, ...); ``keep``: the options that are run."""
        ops = [cast(Candidate, op) for op in self.values()]
        if p is None:
            gain = ops[0].gain
            return ops[0](source, gain if weight is None else gain * weight)
        if self.separate:
            total = sum(p[index] * ops[index](source, ops[index].gain) for index in keep)
            return cast(Tensor, total if weight is None else total * weight)
        scales = torch.stack([ops[index].gain for index in keep]) * (p if len(keep) == len(ops) else p[keep])[:, None]
        if weight is not None:
            scales = scales * weight
        merged = [place for place, index in enumerate(keep) if ops[index].merges]
        outputs: list[Tensor] = []
        if merged:
            chosen = scales if len(merged) == len(keep) else scales[merged]
            outputs.append(convolve(source, merge_kernels(chosen, [ops[keep[place]].part() for place in merged], ops[0].cin)))
        outputs += [ops[index](source, scales[place]) for place, index in enumerate(keep) if not ops[index].merges]
        return _sum(outputs)


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


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

    def forward(
        self, inputs: dict[str, Tensor], stride: Triple, choice: Choice, need_first: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the cell's output and, if asked for, what its first node gave; only nodes that somebody reads are run."""
        plan = self.plan
        keep_skip, skip = (
            (True, None) if plan.skip else (False, None) if plan.skip is False else choice.on(f"{plan.name}/skip", 0)
        )
        sources = {name: Source(x, stride) for name, x in inputs.items() if name != "s0" or keep_skip}
        done: dict[str, Tensor] = {}

        def node(name: str) -> Tensor:
            if name not in done:
                done[name] = self._node(name, sources, skip, choice, node)
            return done[name]

        out = node(f"n{len(plan.nodes) - 1}")
        first = plan.first
        keep, p = (bool(plan.residual), None) if plan.residual is not None else choice.on(f"{plan.name}/residual", 1)
        if keep and first and not (first == "s0" and not keep_skip):
            added = inputs["s0"] if first == "s0" else node(first)
            if first == "s0" and skip is not None:
                p = skip if p is None else p * skip
            out = mix(out, None, added, p)
        return out, (node("n0") if need_first and len(plan.nodes) > 1 else None)

    def _node(self, name: str, sources: dict[str, Source], skip: Tensor | None, choice: Choice, node) -> Tensor:  # noqa: ANN001
        plan = self.plan
        module = cast(Node, self[name])
        edges = plan.nodes[int(name[1:])]
        weights = choice.inputs(f"{plan.name}/{name}/pair", list(edges))
        outputs: list[Tensor] = []
        for before, weight in weights.items():
            if before == "s0" and before not in sources:
                continue  # the skip is off
            if before == "s0" and skip is not None:  # p * op(x) = op(p * x): the scale goes into the kernel
                weight = skip if weight is None else weight * skip
            row = f"{plan.name}/{name}/{before}"
            source = sources[before] if before in sources else Source(node(before))
            keep = choice.options(row, len(edges[before]))
            outputs.append(cast(Edge, module[before])(source, weight, choice.rows.get(row), keep))
        return cast(Norm, module["norm"])(_sum(outputs))
