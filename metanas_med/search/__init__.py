"""Black-box search: strategies that propose candidates and learn from their scores; one file a strategy, found by itself."""

from ..registry import import_parts
from .base import STRATEGIES, Candidate, Strategy, StrategySettings, build_strategy, register_strategy
from .random import RandomSearch, RandomSettings

__all__ = [
    "STRATEGIES",
    "Candidate",
    "RandomSearch",
    "RandomSettings",
    "Strategy",
    "StrategySettings",
    "build_strategy",
    "register_strategy",
]

import_parts(__name__, __path__)
