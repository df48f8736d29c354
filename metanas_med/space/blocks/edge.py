"""Mixed edges: what a node reads from one input, and the merging of the kernels of all edges at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from .merge import merge_kernels
from .operations import Candidate, Source, build_candidate, convolve


class Edge(nn.ModuleDict):
    """The candidates between an input and a node: name -> Candidate."""

    def __init__(
        self, names: tuple[str, ...], cin: int, cout: int, dims: int, separate: bool, generator: torch.Generator | None
    ) -> None:
        super().__init__({name: build_candidate(name, cin, cout, dims, generator) for name in names})
        self.cin, self.cout, self.separate = cin, cout, separate

    def forward(self, source: Source, read: Read) -> Tensor:
        """Return ``weight * sum_o p[o] * gain_o * op_o(x)``: (B, cout, X, Y, Z)."""
        ops = read.ops
        if read.p is None:
            gain = ops[0].gain
            return ops[0](source, gain if read.weight is None else gain * read.weight)
        if self.separate:
            total = add_all([read.p[index] * op(source, op.gain) for index, op in zip(read.keep, ops, strict=True)])
            return total if read.weight is None else total * read.weight
        outputs = [] if read.kernel is None else [convolve(source, read.kernel)]
        return add_all(outputs + [op(source, scale) for op, scale in read.alone])


@dataclass
class Read:
    """One edge in one forward pass: which candidates are run, with which probabilities and weight."""

    edge: Edge
    weight: Tensor | None  #: of the edge in its node; None is 1
    p: Tensor | None  #: probabilities of all candidates; None: there is only one
    keep: list[int]  #: the candidates that are run
    ops: list[Candidate] = field(init=False)
    kernel: Tensor | None = None  #: merged by merge_reads
    alone: list[tuple[Candidate, Tensor]] = field(default_factory=list)  #: those not merged, and their scales (cout,)

    def __post_init__(self) -> None:
        every = [cast(Candidate, op) for op in self.edge.values()]
        self.ops = [every[index] for index in self.keep]


def add_all(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of one or more tensors."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def merge_reads(reads: Sequence[Read]) -> None:
    """Give every mixed edge its scales and its merged kernel; edges of the same widths and candidates go together."""
    groups: dict[tuple[object, ...], list[Read]] = {}
    for read in reads:
        if read.p is not None and not read.edge.separate:
            kinds = tuple((type(op), op.size) for op in read.ops)
            groups.setdefault((read.edge.cin, read.edge.cout, kinds), []).append(read)
    for group in groups.values():
        ops, one = group[0].ops, group[0].edge
        gains = torch.stack([op.gain for read in group for op in read.ops]).view(len(group), len(ops), one.cout)
        p = torch.stack([cast(Tensor, read.p if len(read.keep) == len(read.edge) else read.p[read.keep]) for read in group])  # type: ignore[index]
        if any(read.weight is not None for read in group):
            unit = p.new_ones(())
            p = p * torch.stack([unit if read.weight is None else read.weight for read in group])[:, None]
        scales = gains * p[:, :, None]
        merged = [index for index, op in enumerate(ops) if op.merges]
        if merged:
            chosen = scales if len(merged) == len(ops) else scales[:, merged]
            parts = [[read.ops[index].part() for index in merged] for read in group]
            for read, kernel in zip(group, merge_kernels(chosen, parts, one.cin), strict=True):
                read.kernel = kernel
        if len(merged) < len(ops):
            for read, rows in zip(group, scales.unbind(0), strict=True):
                read.alone = [(op, rows[index]) for index, op in enumerate(read.ops) if not op.merges]
