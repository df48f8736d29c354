"""The outer update: pure arithmetic on named tensors."""

from ..registry import import_parts
from .registry import build_meta, list_metas, register_meta
from .reptile import MeanDifference, Reptile, center_row, commit_row, interpolate

__all__ = [
    "MeanDifference",
    "Reptile",
    "build_meta",
    "center_row",
    "commit_row",
    "interpolate",
    "list_metas",
    "register_meta",
]

import_parts(__name__, __path__)
