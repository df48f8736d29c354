"""Strategies: random search draws uniformly and never twice; a strategy is added in one file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

import metanas_med.search as room
from metanas_med.errors import ConfigError
from metanas_med.registry import import_parts
from metanas_med.search import STRATEGIES, RandomSearch, RandomSettings, StrategySettings, build_strategy
from metanas_med.space import UNetSupernetSettings, hash_genotype, random_genotype

SPACE = UNetSupernetSettings(base_width=2, max_width=4, levels=3, nodes=(1,))

ADDED = '''
from metanas_med.search import Candidate, StrategySettings, register_strategy
from metanas_med.space import random_genotype


class FirstSettings(StrategySettings):
    name: str = "first"


@register_strategy("first", settings=FirstSettings)
class First:
    """Always the first architecture that it drew."""

    def __init__(self, settings, space):
        self.space, self.found, self.told = space, None, []

    def ask(self, generator):
        self.found = self.found or Candidate(random_genotype(self.space, generator), name="first")
        return self.found

    def tell(self, candidate, score, budget):
        self.told.append((candidate.name, score, budget))
'''


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_random_search_draws_as_the_space_does_and_no_architecture_twice() -> None:
    search = build_strategy(RandomSettings(), SPACE)
    one, other = generator(), generator()
    first = search.ask(one)
    assert first.genotype == random_genotype(SPACE, other)
    names = {first.name} | {search.ask(one).name for _ in range(20)}
    assert len(names) == 21 and first.name == hash_genotype(first.genotype or {})


def test_random_search_ends_where_the_space_is_exhausted() -> None:
    small = SPACE.model_copy(update={"levels": 2, "candidates": ("conv333",), "coarse_from": 5, "search_residual": False})
    search = RandomSearch(RandomSettings(tries=50), small)
    rng, found = generator(), []

    def ask_for_ever() -> None:
        while True:
            found.append(search.ask(rng).name)

    with pytest.raises(ConfigError, match="no new architecture in 50 draws"):
        ask_for_ever()
    assert len(found) == len(set(found)) >= 2


def test_the_memory_of_random_search_survives_a_restart() -> None:
    search = RandomSearch(RandomSettings(), SPACE)
    first = search.ask(generator())
    search.tell(first, 0.5, 10)
    search.tell(first, 0.7, 5)  # a smaller budget does not replace a larger one
    again = RandomSearch(RandomSettings(), SPACE)
    again.load(search.state())
    assert again.scores == {first.name: (10, 0.5)}
    assert again.ask(generator()).name != first.name


def test_a_strategy_is_added_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(ADDED.splitlines()) < 50
    (tmp_path / "added_first.py").write_text(ADDED)
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    before = STRATEGIES.names()
    with STRATEGIES.extended():
        import_parts(room.__name__, room.__path__)
        settings = STRATEGIES.entry("first").settings
        assert settings is not None and issubclass(settings, StrategySettings)
        strategy = build_strategy(settings.model_validate({}), SPACE)
        rng = generator()
        candidate = strategy.ask(rng)
        assert strategy.ask(rng) is candidate
        strategy.tell(candidate, 0.4, 3)
    assert STRATEGIES.names() == before
    sys.modules.pop(f"{room.__name__}.added_first", None)
    importlib.invalidate_caches()
