"""Reptile against its closed form: by how much weights and alphas move, and what does not move them."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor

from metanas_med.errors import ConfigError
from metanas_med.meta import (
    METAS,
    MeanDifference,
    MetaState,
    Reptile,
    ReptileSettings,
    Update,
    build_meta,
    center_row,
    commit_row,
    interpolate,
    register_meta,
)


def random_state(seed: int) -> MetaState:
    g = torch.Generator().manual_seed(seed)
    weights = {"a": torch.randn(3, 2, 3, 3, 3, generator=g), "b": torch.randn(4, generator=g)}
    alphas = {"body.alphas.e": torch.randn(7, generator=g), "body.alphas.pair": torch.randn(3, generator=g)}
    return MetaState(weights, alphas)


def reptile(**settings: float) -> Reptile:
    return Reptile(ReptileSettings(**({"beta_weights": 0.5, "beta_alphas": 0.25, "final_beta": 1.0} | settings)))  # type: ignore[arg-type]


def updates(ends: Iterable[MetaState]) -> list[Update]:
    return [Update(end) for end in ends]


def test_weights_and_alphas_move_by_beta_times_the_mean_difference() -> None:
    start, ends = random_state(0), [random_state(s) for s in (1, 2, 3)]
    new = reptile().step(start, updates(ends), 0.0)
    for name, value in start.weights.items():
        mean = torch.stack([e.weights[name].double() - value.double() for e in ends]).mean(0)
        torch.testing.assert_close(new.weights[name].double(), value.double() + 0.5 * mean, rtol=1e-6, atol=1e-6)
        assert not torch.equal(new.weights[name], value)
    for name, value in start.alphas.items():
        centred = value.double() - value.double().mean()
        mean = torch.stack([e.alphas[name].double() - e.alphas[name].double().mean() - centred for e in ends]).mean(0)
        torch.testing.assert_close(new.alphas[name].double(), centred + 0.25 * mean, rtol=1e-6, atol=1e-6)
        assert not torch.equal(new.alphas[name].softmax(0), value.softmax(0))
    assert all(v.dtype == torch.float32 and not v.requires_grad for v in (*new.weights.values(), *new.alphas.values()))


def test_nothing_given_is_changed() -> None:
    start, ends = random_state(0), [random_state(1)]
    reptile().step(start, updates(ends), 0.0)
    for state, seed in ((start, 0), (ends[0], 1)):
        for found, expected in zip(state.weights.values(), random_state(seed).weights.values(), strict=True):
            assert torch.equal(found, expected)


def test_at_rate_one_it_goes_to_the_mean_of_the_tasks() -> None:
    start, ends = random_state(0), [random_state(1), random_state(2)]
    new = reptile(beta_weights=1.0, beta_alphas=1.0).step(start, updates(ends), 0.5)
    for name in start.weights:
        torch.testing.assert_close(new.weights[name], (ends[0].weights[name] + ends[1].weights[name]) / 2)


def test_a_shift_of_a_row_changes_nothing() -> None:
    start, ends = random_state(0), [random_state(1), random_state(2)]
    shifted = MetaState(ends[0].weights, {n: a + 5.0 for n, a in ends[0].alphas.items()})
    moved = MetaState(start.weights, {n: a - 3.0 for n, a in start.alphas.items()})
    one, other = reptile().step(start, updates(ends), 0.0), reptile().step(moved, updates([shifted, ends[1]]), 0.0)
    for name in start.alphas:
        torch.testing.assert_close(one.alphas[name], other.alphas[name], rtol=1e-5, atol=1e-5)
        assert abs(float(one.alphas[name].mean())) < 1e-6
        torch.testing.assert_close(center_row(start.alphas[name]).softmax(0), start.alphas[name].softmax(0))


def test_each_group_has_a_rate_that_decays() -> None:
    meta = reptile(beta_weights=0.8, beta_alphas=0.4, final_beta=0.25)
    assert meta.rates(0.0) == {"beta_weights": 0.8, "beta_alphas": 0.4}
    assert meta.rates(0.5) == pytest.approx({"beta_weights": 0.8 * 0.625, "beta_alphas": 0.4 * 0.625})
    assert meta.rates(1.0) == pytest.approx({"beta_weights": 0.2, "beta_alphas": 0.1}) and meta.rates(7.0) == meta.rates(1.0)


def test_alphas_that_did_not_move_in_the_tasks_stay() -> None:
    """As in a warm-up, where task learners keep them."""
    start = random_state(0)
    start = MetaState(start.weights, {n: center_row(a) for n, a in start.alphas.items()})
    new = reptile().step(start, updates([MetaState(random_state(1).weights, start.alphas)]), 0.1)
    assert all(torch.equal(new.alphas[n], center_row(a)) for n, a in start.alphas.items())
    assert not torch.equal(new.weights["a"], start.weights["a"])


def test_a_task_without_an_end_is_left_out() -> None:
    start, ends = random_state(0), updates([random_state(1), random_state(2)])
    bad = Update(None, bad="the loss became nan")
    assert reptile().step(start, [bad], 0.0) is start
    one, other = reptile().step(start, [ends[0], bad, ends[1]], 0.0), reptile().step(start, ends, 0.0)
    assert all(torch.equal(one.weights[n], w) for n, w in other.weights.items())


def test_one_task_and_no_task() -> None:
    start = random_state(0)
    assert reptile().step(start, [], 0.0) is start
    (end,) = [random_state(1)]
    new = reptile(beta_weights=1.0).step(start, updates([end]), 0.0)
    torch.testing.assert_close(new.weights["a"], end.weights["a"])
    same = reptile().step(start, updates([start]), 0.0)
    for name, value in start.weights.items():
        assert torch.equal(same.weights[name], value)


def test_what_a_task_did_not_have_counts_as_not_moved() -> None:
    start = {"a": torch.zeros(2), "b": torch.zeros(2)}
    difference = MeanDifference(start)
    for end in ({"a": torch.ones(2), "b": torch.ones(2)}, {"a": torch.ones(2)}):
        difference.add(end)
    mean = difference.mean()
    assert mean["a"].tolist() == [1, 1] and mean["b"].tolist() == [0.5, 0.5]
    assert interpolate(start, mean, 0.5)["b"].tolist() == [0.25, 0.25]


def test_ends_are_taken_one_by_one() -> None:
    """Those of a large network must not all be held: each is gone before the next is made."""
    alive: list[weakref.ref[MetaState]] = []

    def ends() -> Iterator[Update]:
        for seed in (1, 2, 3):
            end = random_state(seed)
            alive.append(weakref.ref(end))
            yield Update(end)
            del end
            assert all(reference() is None for reference in alive[:-1])

    found = reptile().step(random_state(0), ends(), 0.0)
    expected = reptile().step(random_state(0), updates(random_state(seed) for seed in (1, 2, 3)), 0.0)
    assert len(alive) == 3 and all(torch.equal(found.weights[n], w) for n, w in expected.weights.items())


def test_the_order_of_tasks_does_not_matter_to_the_bit() -> None:
    start, ends = random_state(0), [random_state(s) for s in (1, 2, 3, 4)]
    expected = reptile().step(start, updates(ends), 0.0)
    for order in itertools.permutations(ends):
        found = reptile().step(start, updates(order), 0.0)
        for name in start.weights:
            assert torch.equal(found.weights[name], expected.weights[name])
        for name in start.alphas:
            assert torch.equal(found.alphas[name], expected.alphas[name])


def test_quadratic_tasks_pull_the_start_to_the_mean_of_their_optima() -> None:
    """Losses |w - c_i|^2 / 2: k gradient steps shrink the distance by (1 - lr)^k, and Reptile rests at the mean of c_i."""
    optima = [torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.0]), torch.tensor([-1.0, 5.0])]

    def adapt(w: Tensor, optimum: Tensor) -> Tensor:
        for _ in range(5):
            w = w - 0.1 * (w - optimum)
        return w

    meta, state = reptile(beta_weights=1.0), MetaState({"w": torch.tensor([9.0, 9.0])}, {})
    mean = torch.stack(optima).mean(0)
    distance = [float((state.weights["w"] - mean).norm())]
    for _ in range(40):
        state = meta.step(state, updates(MetaState({"w": adapt(state.weights["w"], c)}, {}) for c in optima), 0.0)
        distance.append(float((state.weights["w"] - mean).norm()))
    assert distance[1] / distance[0] == pytest.approx(0.9**5, rel=1e-4)
    torch.testing.assert_close(state.weights["w"], mean, rtol=1e-4, atol=1e-4)


def test_meta_learners_are_found_by_name() -> None:
    assert "reptile" in METAS.names() and isinstance(build_meta(ReptileSettings()), Reptile)
    with pytest.raises(ConfigError, match="did you mean 'reptile'"):
        build_meta(ReptileSettings(name="reptil"))
    with METAS.extended():
        register_meta("test_only")(lambda settings: "made")
        assert build_meta(ReptileSettings(name="test_only")) == "made"
    assert "test_only" not in METAS.names()


def test_a_committed_row_keeps_its_first_choice_by_the_margin_and_is_centred() -> None:
    row = commit_row(torch.tensor([0.1, 0.4, -0.2, 0.39], dtype=torch.float64), 1.5)
    torch.testing.assert_close(row, torch.tensor([-0.375, 1.125, -0.375, -0.375], dtype=torch.float64))
