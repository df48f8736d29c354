"""The door of strategies: ask for a candidate, tell its score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ..config import Section
from ..registry import Registry
from ..space import SpaceSettings


@dataclass(frozen=True)
class Candidate:
    """What a strategy proposes: a genotype, and values of settings by their names, such as ``{"plan.margin": 1.4}``."""

    genotype: Mapping[str, Any] | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""  #: the same for the same proposal


class Strategy(Protocol):
    """Proposes candidates. A strategy with memory also has ``state() -> dict`` (JSON values) and ``load(state)``."""

    def ask(self, generator: torch.Generator) -> Candidate:
        """Return the next candidate; all randomness comes from ``generator``."""
        ...

    def tell(self, candidate: Candidate, score: float, budget: int) -> None:
        """Take in the score of a candidate (higher is better) that was trained for ``budget`` steps."""
        ...


class StrategySettings(Section):
    """What every strategy has."""

    name: str


STRATEGIES: Registry[Strategy] = Registry("strategy")
register_strategy = STRATEGIES.register


def build_strategy(settings: StrategySettings, space: SpaceSettings) -> Strategy:
    """Return the strategy that ``settings.name`` names, over the architectures of ``space``; ConfigError for an unknown name."""
    return STRATEGIES.build(settings.name, settings, space)
