"""The outer update: pure arithmetic on named tensors."""

from ..registry import import_parts
from .base import METAS, MetaLearner, MetaSettings, MetaState, Update, build_meta, register_meta
from .fomaml import Fomaml, FomamlSettings
from .reptile import MeanDifference, Reptile, ReptileSettings, center_row, commit_row, interpolate

__all__ = [
    "METAS",
    "Fomaml",
    "FomamlSettings",
    "MeanDifference",
    "MetaLearner",
    "MetaSettings",
    "MetaState",
    "Reptile",
    "ReptileSettings",
    "Update",
    "build_meta",
    "center_row",
    "commit_row",
    "interpolate",
    "register_meta",
]

import_parts(__name__, __path__)
