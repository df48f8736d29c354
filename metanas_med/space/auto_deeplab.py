"""The size of the space of Auto-DeepLab (Liu et al. 2019, arXiv 1901.02985), by formula: paths through a grid, and cells.

The space itself is not built: ``grid`` searches such paths with the cells of this toolkit, and ``dints`` several paths at once.
"""

from __future__ import annotations

#: layers, resolutions, nodes of a cell and operations of an edge in the paper
LAYERS, LEVELS, NODES, OPERATIONS = 12, 4, 5, 8


def count_paths(layers: int = LAYERS, levels: int = LEVELS) -> int:
    """Return the number of paths through a grid of layers and levels that start at the finest level.

    From each layer to the next a path stays at its level or moves to a neighbouring one: 11 moves in the paper's 12 layers, and
    28,657 paths.
    """
    ways = [1] + [0] * (levels - 1)
    for _ in range(layers - 1):
        ways = [sum(ways[max(level - 1, 0) : level + 2]) for level in range(levels)]
    return sum(ways)


def count_cells(nodes: int = NODES, operations: int = OPERATIONS) -> int:
    """Return the number of cells: node i picks two inputs, each one of i + 2, and an operation for each; 556,627,761,561,600."""
    found = 1
    for node in range(nodes):
        found *= (node + 2) ** 2 * operations**2
    return found
