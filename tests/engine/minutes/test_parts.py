"""The parts of a search: clock, pace, layout, folds, portfolio, guard, estimate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from metanas_med.data.cached import CachedDataset, open_cache
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.minutes.budget import Budget, Cost, Pacer
from metanas_med.engine.minutes.estimate import expect
from metanas_med.engine.minutes.folds import split_support
from metanas_med.engine.minutes.guard import HeldBackError, SupportOnly
from metanas_med.engine.minutes.halving import differences, lay_out, rounds_seconds, sizes_of, survivors
from metanas_med.engine.minutes.portfolio import read_portfolio
from metanas_med.engine.minutes.settings import MinutesSettings
from metanas_med.tasks.organ import task_in

from .conftest import MakePortfolio


class Clock:
    def __init__(self) -> None:
        self.time = 50.0

    def __call__(self) -> float:
        return self.time


def test_the_clock_of_a_budget() -> None:
    clock = Clock()
    budget = Budget(100, 10, clock)
    clock.time += 20
    with budget.paused():
        clock.time += 500
    assert budget.spent == 30 and budget.left == 70 and budget.end == clock.time + 70


@pytest.mark.parametrize(("slower", "guess"), [(1.0, 1.0), (3.0, 1.0), (1.0, 5.0), (0.5, 1.0)])
def test_a_run_is_laid_out_again_until_its_end_fits(slower: float, guess: float) -> None:
    """Steps become ``slower`` after 20 of them, and the first guess may be wrong: the last step still ends in time."""
    clock = Clock()
    pace = Pacer(clock.time + 100, lambda step: 2 * step, guess, clock)
    total, step, seconds = int(100 / guess), 0, 1.0
    totals = []
    while step < total:
        total = max(pace(step, total), step + 1)
        totals.append(total)
        seconds = slower if step >= 20 else 1.0
        clock.time += seconds
        pace.on_step(step, 0.0)
        step += 1
    left = 150 - clock.time
    assert 2 * seconds - 1e-9 <= left + seconds and left >= seconds, (left, step)
    assert left < 0.6 * 100
    # averaging and cooldown are never moved away from
    half = next(i for i, t in enumerate(totals) if 2 * i > t)
    assert totals[half:] == sorted(totals[half:], reverse=True)


def test_a_run_that_is_asked_to_stop_ends_soon() -> None:
    clock = Clock()
    pace = Pacer(clock.time + 1000, lambda step: 0.0, 1.0, clock)
    assert pace(40, 1000) > 900
    pace.stopped = lambda: True
    assert pace(40, 1000) == 42


def test_the_layout_of_a_budget() -> None:
    s = MinutesSettings(least_search_steps=100, least_estimate_steps=40, least_fit_steps=10, search_share=0.4)
    cost = Cost(plan=0.5, head=0.5, step=1.0, predict=1.0)
    assert sizes_of(9, 3) == (9, 3) and sizes_of(8, 2) == (8, 4, 2) and sizes_of(1, 3) == (1,) and sizes_of(2, 3) == (2,)
    assert "30 steps" in lay_out(31.5, cost, 9, 2, 2, 1, s).why_not
    alone = lay_out(80, cost, 9, 2, 2, 1, s)
    assert alone.sizes in ((), (1,)) and alone.why_not
    for left in (200, 1000, 5000):
        found = lay_out(left, cost, 9, 2, 2, 1, s)
        assert found.sizes and found.seconds == pytest.approx(0.4 * left)
        each = found.fit_seconds(rounds_seconds(found), found.sizes[0] * 2)
        assert each >= 0.5 + 0.5 + 2 + 10 - 1e-9
        last = found.fit_seconds(rounds_seconds(found), found.sizes[-1] * 2)
        assert len(found.sizes) * rounds_seconds(found) + 2 * last <= found.seconds + 1e-6  # averages are in it
    assert lay_out(5000, cost, 9, 2, 2, 1, s).sizes == (9, 3)
    assert lay_out(5000, cost, 9, 2, 2, 2, s).fit_seconds(10, 3) == 5


def test_survivors_and_differences() -> None:
    scores = {"a": {"s": {"x": 0.1}}, "b": {"s": {"x": 0.5}}, "c": {"s": {"x": 0.4}}, "d": {"s": {"x": 0.9}}}
    assert survivors(scores, "a", 3) == ["a", "b", "d"]
    one, other = {"s": {"x": 0.5, "y": 1.0}, "t": {"x": 0.2}, "u": {"x": 1.0}}, {"s": {"x": 0.4}, "t": {"x": 0.4}}
    assert differences(one, other) == pytest.approx([0.1, -0.2])


def test_the_expected_dice_is_students_interval() -> None:
    values = [0.7, 0.8, 0.75, 0.9, 0.65]
    found = expect({f"s{i}": {"o": v} for i, v in enumerate(values)}, 3, 5, False)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (found.dice, found.low, found.high) == pytest.approx((np.mean(values), low, high)) and not found.weak
    assert found.holds(0.76) and not found.holds(0.2) and "3 of 5" in found.words
    wide = expect({"a": {"o": 0.1}, "b": {"o": 0.9}}, 1, 2, False)
    assert (wide.low, wide.high) == (0.0, 1.0)
    assert expect({"a": {"o": 0.5}}, 1, 2, False).weak and expect({}, 0, 0, False).dice is None


def test_folds_are_of_patients_and_see_every_organ(pair: CachedDataset) -> None:
    task, names = task_in(pair), [case.name for case in pair.cases][:5]
    patient = {case.name: case.patient for case in pair.cases}
    found = split_support(pair, task, names, 2, 2, 0)
    assert len(found.repeats) == 2 and not found.weak and found.repeats[0] != found.repeats[1]
    for folds in found.repeats:
        assert sorted(name for fold in folds for name in fold.left) == sorted(names)
        for fold in folds:
            assert not {patient[n] for n in fold.train} & {patient[n] for n in fold.left}
            assert set(fold.train) | set(fold.left) == set(names) and not fold.lacks
    assert split_support(pair, task, names, 2, 2, 0) == found != split_support(pair, task, names, 2, 2, 1)
    (alone,) = split_support(pair, task, names[:1], 2, 2, 0).repeats
    assert all(fold.copies and fold.train == (names[0],) and not fold.left for fold in alone)


def test_folds_where_an_organ_is_rare(pair: CachedDataset) -> None:
    data, task = open_cache(pair.path), task_in(pair)
    names = [case.name for case in data.cases][:4]

    def without(values: dict[str, tuple[int, ...]]) -> None:
        data.cases = tuple(
            replace(c, label_voxels={v: n for v, n in c.label_voxels.items() if v not in values.get(c.name, ())})
            for c in pair.cases
        )

    without({name: (2,) for name in names[:2]})  # two scans hold it: each fold can have one
    assert not any(fold.lacks for fold in split_support(data, task, names, 2, 1, 0).repeats[0])
    without({name: (2,) for name in names[:3]})  # one scan: the fold that leaves it out lacks it
    lacks = sorted(fold.lacks for fold in split_support(data, task, names, 2, 1, 0).repeats[0])
    assert lacks == [(), ("right",)]
    without({name: (1, 2) for name in names[:3]})
    found = split_support(data, task, names, 2, 1, 0)
    assert not found.repeats and "no split" in found.why_not


def test_a_search_cannot_read_a_held_back_scan(pair: CachedDataset) -> None:
    names = [case.name for case in pair.cases]
    guarded = SupportOnly(pair, names[:2])
    assert [case.name for case in guarded.cases] == names[:2]
    assert (guarded.label(names[0]) == pair.label(names[0])).all() and guarded.lazy_image(names[1]).shape
    for read in (guarded.image, guarded.label, guarded.lazy_image, lambda name: guarded.channel(name, 0)):
        with pytest.raises(HeldBackError, match="not in the support"):
            read(names[2])


def test_portfolios_of_another_kind(start: MetaRun, make_portfolio: MakePortfolio, caplog: pytest.LogCaptureFixture) -> None:
    s = start.settings
    folder = make_portfolio({}, {"pipeline/batch": "2"}, {"pipeline/batch": "2"}, {"width": "16"}, seconds=[1, 0.5, 0.5, 1])
    found = read_portfolio(folder, start, s.adapt, s.plan)
    assert [c.configuration.name for c in found.candidates] == ["default", "batch=2"] and found.candidates[1].seconds == 0.5
    assert "width=16 is left out" in caplog.text
    assert read_portfolio(None, start, s.adapt, s.plan).why_alone
    path = folder / "portfolio.json"
    tree = json.loads(path.read_text())
    wrong = [{**tree, "format": 9}, {**tree, "space": "another"}, {**tree, "candidates": [3]}, [], {**tree, "candidates": [{}]}]
    for each in [*wrong[:4], {**tree, "candidates": [{"network": 1, "pipeline": {}}]}]:
        caplog.clear()
        path.write_text(json.dumps(each))
        found = read_portfolio(folder, start, s.adapt, s.plan)
        assert len(found.candidates) == 1 and found.why_alone and "only the default" in caplog.text
    path.write_text("{")
    assert read_portfolio(folder, start, s.adapt, s.plan).why_alone
    assert read_portfolio(Path("nowhere"), start, s.adapt, s.plan).why_alone
