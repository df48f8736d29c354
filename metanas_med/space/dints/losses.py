"""The entropies of DiNTS' loss: of patterns, of operations, and of the fit between neighbouring blocks.

He et al. 2021, arXiv 2103.15954, section 3.4; terms as in ``TopologySearch`` of MONAI 1.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .gates import Gates
from .topology import Topology

EPS = 1e-5  #: under logarithms, as in MONAI


def pattern_probabilities(grid: Topology, gates: Gates) -> Tensor:
    """Return the probabilities of all patterns of a block, given that it is not empty: (2^E - 1,); row p - 1 is pattern p."""
    assert gates.p is not None and len(gates.edges) == len(grid.edges), "only a supernet without pruning has all patterns"
    p, bits = gates.p, torch.as_tensor(grid.bits, dtype=gates.p.dtype, device=gates.p.device)
    found = (bits * p + (1 - bits) * (1 - p)).prod(1)
    return found / (1 - (1 - p).prod()).clamp(min=1e-6)


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of each row of probabilities in nats: (...,) of (..., n)."""
    return -(probabilities * (probabilities + EPS).log()).sum(-1)


def topology_entropy(grid: Topology, blocks: Sequence[Tensor]) -> Tensor:
    """Return how badly neighbouring blocks fit: the cross entropy of each set of levels being written, and being read next.

    ``blocks``: the probabilities of the patterns of each block. A scalar, summed over sets and over pairs of blocks.
    """
    device, count = blocks[0].device, 2**grid.levels
    writes, reads = (torch.tensor([of(p + 1) for p in range(len(grid.bits))], device=device) for of in (grid.writes, grid.reads))
    total = blocks[0].new_zeros(())
    for block, after in zip(blocks, blocks[1:], strict=False):
        written = block.new_zeros(count).index_add(0, writes, block)[1:]
        read = block.new_zeros(count).index_add(0, reads, after)[1:]
        total = total - (written * (read + EPS).log() + (1 - written) * (1 - read + EPS).log()).sum()
    return total
