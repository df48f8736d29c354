"""The settings of the grid space."""

from __future__ import annotations

from pydantic import Field

from ..candidate_sets import CellSettings


class GridSettings(CellSettings):
    """A path through a grid of layers and levels, with a cell of searched operations at each of its places."""

    name: str = "grid"
    layers: int = Field(default=5, ge=1, le=32)  #: cells on a path
    cell_nodes: int = Field(
        default=2, ge=1, le=5
    )  #: of a cell; each sums operations on the cell's input and on all earlier nodes
    candidates: tuple[str, ...] = Field(
        default=("conv333", "dwsep333", "dilated333", "identity", "max_pool"), min_length=1, max_length=64
    )  #: operations of an edge, or the name of a candidate set; each runs by itself
    shared: bool = True  #: one cell for the whole grid, as in the paper; otherwise one a layer
