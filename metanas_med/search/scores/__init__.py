"""Scores: numbers that rank networks and settings on a support set; one file a score or family, imported automatically."""

from ...registry import import_parts
from .base import SCORES, ScanScore, Score, ScoreSettings, build_score, register_score

__all__ = [
    "SCORES",
    "ScanScore",
    "Score",
    "ScoreSettings",
    "build_score",
    "register_score",
]

import_parts(__name__, __path__)
