"""The outer update: pure arithmetic on named tensors."""

from .maml import maml_gradient
from .registry import build_meta, list_metas, register_meta
from .reptile import Reptile, center_row, commit_row, interpolate, mean_difference

__all__ = [
    "Reptile",
    "build_meta",
    "center_row",
    "commit_row",
    "interpolate",
    "list_metas",
    "maml_gradient",
    "mean_difference",
    "register_meta",
]
