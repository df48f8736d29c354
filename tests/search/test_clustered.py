"""Evolution over clusters: C2FNAS' coarse stage on a known score."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from metanas_med.errors import ConfigError
from metanas_med.search.clustered import ClusteredEvolution, ClusteredSettings
from metanas_med.space import UNetSettings, get_space, read_genotype
from metanas_med.space.c2fnas import C2FNASSettings

SPACE = C2FNASSettings(base_width=2, max_width=4, levels=4, cells=12)  # 462 topologies, 165 clusters
BEST = (0, 0, 1, 1, 2, 3, 2, 2, 1, 0, 0, 0)


def score_of(genotype: Any) -> float:
    settings, picks = read_genotype(genotype)
    topology = get_space(settings).topology(picks)  # type: ignore[attr-defined]
    return -float(sum(abs(a - b) for a, b in zip(topology, BEST, strict=True)))


def best_of(strategy: Any, generator: torch.Generator, count: int) -> float:
    for _ in range(count):
        candidate = strategy.ask(generator)
        strategy.tell(candidate, score_of(candidate.genotype), 1)
    return max(score for _, score in strategy.scores.values())


def test_it_finds_better_topologies_than_random_draws() -> None:
    """Mean of four seeds, 30 proposals of 462; the second number is that of random draws."""
    from metanas_med.search import RandomSearch, RandomSettings

    flat = SPACE.model_copy(update={"dims": 2})  # topologies alone
    found = [best_of(ClusteredEvolution(ClusteredSettings(), flat), torch.Generator().manual_seed(seed), 30) for seed in range(4)]
    other = [best_of(RandomSearch(RandomSettings(), flat), torch.Generator().manual_seed(seed), 30) for seed in range(4)]
    assert sum(found) / 4 > sum(other) / 4 + 0.25, (found, other)


def test_first_come_different_clusters_and_none_comes_twice() -> None:
    strategy, generator = ClusteredEvolution(ClusteredSettings(first=12), SPACE), torch.Generator().manual_seed(0)
    asked = [strategy.ask(generator) for _ in range(12)]
    space: Any = get_space(SPACE)
    clusters = {space.cluster(read_genotype(candidate.genotype)[1]) for candidate in asked}
    assert len(clusters) == len({candidate.name for candidate in asked}) == 12
    assert all(option == "conv333" for c in asked for row, option in (c.genotype or {})["picks"].items() if row.endswith("op"))


def test_it_goes_on_from_its_state() -> None:
    one, generator = ClusteredEvolution(ClusteredSettings(first=3), SPACE), torch.Generator().manual_seed(0)
    best_of(one, generator, 5)
    other = ClusteredEvolution(ClusteredSettings(first=3), SPACE)
    other.load(json.loads(json.dumps(one.state())))
    state = generator.get_state()
    expected = one.ask(generator)
    generator.set_state(state)
    assert other.ask(generator) == expected


def test_the_end_of_a_space_and_a_space_without_clusters_are_errors() -> None:
    small = C2FNASSettings(base_width=2, max_width=4, levels=2, cells=4)  # 3 topologies
    strategy, generator = ClusteredEvolution(ClusteredSettings(tries=40), small), torch.Generator().manual_seed(0)
    assert len({strategy.ask(generator).name for _ in range(3)}) == 3
    with pytest.raises(ConfigError, match="3 were proposed"):
        strategy.ask(generator)
    with pytest.raises(ConfigError, match="the space unet has no clusters"):
        ClusteredEvolution(ClusteredSettings(), UNetSettings())
