"""Mixed edges: what a node reads from one input, and the merging of the kernels of all edges at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from .merge import Part, merge_kernels
from .operations import Candidate, Source, build_candidate, convolve
from .partial import is_partial, leading_source, passed, run_part, run_weighted


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
        k = read.partial if is_partial(self.cin, self.cout, read.partial) else 1
        inner = source if k == 1 else leading_source(source, k)
        if self.separate:
            total = add_all([self._separate(inner, read, index, op, k) for index, op in zip(read.keep, ops, strict=True)])
            total = total if k == 1 else passed(total, source, self.cout, k)
            total = total if read.weight is None else total * read.weight
        else:
            outputs = [] if read.kernel is None else [convolve(inner, read.kernel[: self.cout // k, : self.cin // k])]
            total = add_all(outputs + [self._alone(inner, read, *each, k) for each in read.alone])
            total = total if k == 1 else passed(total, source, self.cout, k, read.weight)
        return add_skip(total, source, read.skip, read.weight)

    def _separate(self, source: Source, read: Read, index: int, op: Candidate, k: int) -> Tensor:
        assert read.p is not None
        return run_weighted(op, source, read.p[index], k, index in read.detached)

    def _alone(self, source: Source, read: Read, index: int, op: Candidate, scale: Tensor, k: int) -> Tensor:
        if index not in read.detached:
            return run_part(op, source, scale, k)
        # its weight is 0 where another option runs: only the row gets a gradient
        with torch.no_grad():
            out = run_part(op, source, torch.ones_like(scale), k)
        return out * scale[: self.cout // k].view(1, -1, 1, 1, 1)


@dataclass
class Read:
    """One edge in one forward pass: which candidates are run, with which probabilities and weight."""

    edge: Edge
    weight: Tensor | None  #: of the edge in its node; None is 1
    p: Tensor | None  #: probabilities of all candidates; None: there is only one
    keep: list[int]  #: the candidates that are run
    ops: list[Candidate] = field(init=False)
    detached: tuple[int, ...] = ()  #: candidates that are run without gradients of their weights
    partial: int = 1  #: K of partial channels
    skip: float = 0.0  #: weight of the auxiliary skip of a mixed edge
    kernel: Tensor | None = None  #: merged by merge_reads
    #: those not merged: number, candidate, scale (cout,)
    alone: list[tuple[int, Candidate, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        every = [cast(Candidate, op) for op in self.edge.values()]
        self.ops = [every[index] for index in self.keep]


def add_all(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of one or more tensors."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def add_skip(total: Tensor, source: Source, skip: float, weight: Tensor | None = None) -> Tensor:
    """Return ``total + weight * skip * x`` if ``x``, every stride-th voxel of the source, has the shape of ``total``.

    This is the auxiliary skip of DARTS- (Chu et al. 2021, arXiv 2009.01027). Where an edge changes the channels or enlarges the map, a
    skip would need weights of its own: there is none.
    """
    if skip == 0.0 or source.x.shape[1] != total.shape[1]:
        return total
    x = source.thinned()
    if x.shape != total.shape:
        return total
    return torch.add(total, x if weight is None else x * weight, alpha=skip)


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
            parts = [[_part(read, index) for index in merged] for read in group]
            for read, kernel in zip(group, merge_kernels(chosen, parts, one.cin), strict=True):
                read.kernel = kernel
        if len(merged) < len(ops):
            for read, rows in zip(group, scales.unbind(0), strict=True):
                read.alone = [(read.keep[index], op, rows[index]) for index, op in enumerate(read.ops) if not op.merges]


def _part(read: Read, index: int) -> Part:
    """Return the kernel of a candidate that is run; a detached one's factors get no gradient."""
    part = read.ops[index].part()
    if read.keep[index] not in read.detached:
        return part
    return replace(part, factors=tuple(factor.detach() for factor in part.factors))
