"""Backward pruning: stages in reverse order, Pareto selection, an optimum that is known, and a state that is taken up."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from metanas_med.errors import ConfigError
from metanas_med.search import build_strategy
from metanas_med.search.bix_pruning import BixPruning, BixPruningSettings, Drawn, dominates
from metanas_med.space import SpaceSettings, UNetSettings, UNetSupernetSettings, genotype_multiply_adds
from metanas_med.space.bix import BixSettings

SHAPE, STRIDES = (8, 8, 4), ((2, 2, 1),)
SMALL = BixSettings(levels=2, iterations=2, base_width=2)
Score = Callable[[dict[str, Any]], float]


def strategy(space: SpaceSettings = SMALL, **given: Any) -> BixPruning:
    found = build_strategy(BixPruningSettings(shape=SHAPE, strides=STRIDES, **given), space)
    assert isinstance(found, BixPruning)
    return found


def run(found: BixPruning, score: Score, seed: int = 0) -> BixPruning:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(5000):
        if found.done:
            return found
        candidate = found.ask(generator)
        assert candidate.genotype is not None
        found.tell(candidate, score(dict(candidate.genotype)), 1)
    raise AssertionError("the strategy does not end")


def opened(genotype: dict[str, Any]) -> set[str]:
    return {row for row, option in genotype["picks"].items() if option == "on"}


def price(genotype: dict[str, Any]) -> int:
    return genotype_multiply_adds(genotype, SHAPE, STRIDES)


def test_it_finds_the_best_network_of_a_score_that_adds_up() -> None:
    """Of open gates, those that are wanted count for the score and others against it: each stage can be pruned by itself."""
    wanted = {"dec0/b0/in1", "dec0/b1/in0", "enc1/b0/in2", "enc1/b1/in0", "dec1/b0/in0", "dec1/b1/in0", "dec1/b1/in2"}

    def score(genotype: dict[str, Any]) -> float:
        own = opened(genotype)
        return len(own & wanted) - 0.5 * len(own - wanted)

    assert opened(run(strategy(samples=60, keep=1), score).best) == wanted


def test_stages_are_pruned_from_the_last_to_the_first() -> None:
    found, generator = strategy(samples=3, keep=1), torch.Generator().manual_seed(0)
    order = ["dec1", "enc1", "dec0"]
    while not found.done:
        stage, before = order[found.at], opened(found.best)
        candidate = found.ask(generator)
        assert candidate.genotype is not None
        own = opened(dict(candidate.genotype))
        assert own <= before
        rest = {row for row in before - own if not row.startswith(stage)}
        running = {row.rpartition("/")[0] for row in candidate.genotype["picks"]}
        assert not [row for row in rest if row.rpartition("/")[0] in running]  # other gates are lost only with their block
        found.tell(candidate, float(torch.rand((), generator=generator)), 1)
    assert found.at == len(order) and found.ask(generator).genotype == found.best


def test_what_is_kept_is_the_best_of_the_pareto_front() -> None:
    found, generator = strategy(samples=6, keep=2), torch.Generator().manual_seed(0)
    told: list[tuple[float, int]] = []
    while found.at == 0:
        candidate = found.ask(generator)
        assert candidate.genotype is not None
        told.append((float(torch.rand((), generator=generator)), price(dict(candidate.genotype))))
        found.tell(candidate, told[-1][0], 1)
    front = [one for one in told if not any(o != one and o[0] >= one[0] and o[1] <= one[1] for o in told)]
    expected = sorted(front, key=lambda one: -one[0])[:2]
    assert [(drawn.score, drawn.multiply_adds) for drawn in found.kept][: len(expected)] == expected
    one, other = Drawn({}, 5, 0.5), Drawn({}, 5, 0.5)
    assert not dominates(one, other) and dominates(Drawn({}, 4, 0.5), other) and not dominates(Drawn({}, 6, 0.6), other)


def test_scores_may_come_late_twice_and_from_elsewhere() -> None:
    found, generator = strategy(samples=3, keep=1), torch.Generator().manual_seed(0)
    asked = [found.ask(generator) for _ in range(5)]
    names = [candidate.name for candidate in asked]
    assert len(set(names[:3])) == 3 and names[3] in names[:3]  # all are asked for: one without a score comes once more
    found.tell(asked[0], 0.9, 10)
    found.tell(asked[0], 0.1, 5)  # a smaller budget changes nothing
    for candidate in asked[1:3]:
        found.tell(candidate, 0.2, 10)
    assert found.at == 1 and found.kept[0].score == 0.9
    found.tell(asked[1], 1.0, 99)  # of a stage that is over
    assert found.at == 1 and found.kept[0].score == 0.9


def test_a_state_is_taken_up() -> None:
    def score(genotype: dict[str, Any]) -> float:
        return -price(genotype) / 1e6

    whole = run(strategy(samples=4), score)
    half, generator = strategy(samples=4), torch.Generator().manual_seed(0)
    for _ in range(7):
        candidate = half.ask(generator)
        half.tell(candidate, score(dict(candidate.genotype or {})), 1)
    taken = strategy(samples=4)
    taken.load(json.loads(json.dumps(half.state())))
    while not taken.done:
        candidate = taken.ask(generator)
        taken.tell(candidate, score(dict(candidate.genotype or {})), 1)
    assert taken.best == whole.best and taken.state() == whole.state()


def test_a_start_and_other_spaces() -> None:
    u = UNetSupernetSettings(levels=2, base_width=2, nodes=(1, 2), candidates=("conv333", "conv111"), coarse_candidates=())
    found = run(strategy(u, samples=4), lambda genotype: -float(list(genotype["picks"].values()).count("residual")))
    assert "residual" not in found.best["picks"].values() and found.stages[-1][-1].startswith("up0/")
    start = {f"{block}/in{n}": "off" for block in ("dec0/b0", "dec0/b1", "enc1/b0", "enc1/b1") for n in (1, 2)}
    given = strategy(start=start)
    assert not opened(given.best) & set(start)
    for wrong, message in (({"dec0/b0/in9": "on"}, "unknown row"), ({"dec0/b0/in1": "onn"}, "did you mean 'on'")):
        with pytest.raises(ConfigError, match=message):
            strategy(start=wrong)
    with pytest.raises(ConfigError, match="dec1/b0 reads 0 inputs"):
        strategy(start={f"dec1/b0/in{n}": "off" for n in range(3)})
    with pytest.raises(ConfigError, match="has none"):
        strategy(UNetSettings())
