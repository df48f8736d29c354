"""``adapt_minutes`` on phantoms with a clock of its own: budgets, choices, stops and resumes."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metanas_med.data.cached import CachedDataset, open_cache
from metanas_med.engine.minutes.run import News
from metanas_med.engine.model import Model
from metanas_med.errors import CheckpointError, ConfigError
from metanas_med.space.ensemble import Ensemble

from .clock import Ticker
from .conftest import Go, MakePortfolio

OTHERS = ({"pipeline/batch": "2"}, {"pipeline/margin": "2.2"})


class Killed(BaseException):
    """Ends a search where nothing can be saved any more."""


def test_a_search_ends_within_its_budget_and_says_what_it_did(go: Go, make_portfolio: MakePortfolio, tmp_path: Path) -> None:
    told, clock = list[News](), Ticker()
    note = go(50, clock=clock, portfolio=make_portfolio(*OTHERS), on_news=told.append, evaluate=1)
    about = json.loads((tmp_path / "m" / "adaptation.json").read_text())["minutes"]
    assert about == note["minutes"] and not about["stopped"]
    step = about["measured"]["step"]
    assert 38 < about["seconds"]["spent"] < about["seconds"]["budget"] + 3 * step
    assert [row["name"] for row in about["tried"]] == ["default", "batch=2", "margin=2.2"]
    assert sum(row["chosen"] for row in about["tried"]) == 1 and about["chosen"]["why"]
    assert about["rounds"][0]["kind"] == "halving" and set(about["rounds"][0]["dice"]) == {"default", "batch=2", "margin=2.2"}
    expected = about["expected"]
    assert 0 <= expected["low"] <= expected["dice"] <= expected["high"] <= 1 and expected["num_scans"] == 4
    assert set(expected["by_organ"]) == {"left", "right"} and not expected["weak"]
    assert about["held_back"]["inside"] == (expected["low"] <= note["dice_after"] <= expected["high"])
    assert all(scan.startswith("case-") for scan in about["rounds"][0]["dice"]["default"])
    # the steps of the final fit are those of its schedule
    assert sum(about["final"]["steps"]) >= len(note["report"]["losses"]) == note["report"]["steps"] > 20
    assert not (tmp_path / "m" / "fits").exists()
    assert told[-1].best is not None and told[0].best is None and all(news.seconds == 50 for news in told)
    model = Model.load(tmp_path / "m", "cpu", "float32")
    assert isinstance(model.net, Ensemble) == about["chosen"]["averages"] and model.tta == about["chosen"]["tta"]


def test_a_short_budget_goes_to_the_default_alone(go: Go, make_portfolio: MakePortfolio) -> None:
    note = go(6, portfolio=make_portfolio(*OTHERS), how={"least_estimate_steps": 1000, "least_search_steps": 1000})
    about = note["minutes"]
    assert about["tried"] == [] and about["chosen"]["name"] == "default" and "comparisons start at 1000" in about["chosen"]["why"]
    assert about["expected"]["dice"] is None and about["seconds"]["spent"] < 6.5


def test_a_budget_between_gives_an_estimate_of_the_default(go: Go, make_portfolio: MakePortfolio) -> None:
    note = go(50, portfolio=make_portfolio(*OTHERS), how={"least_search_steps": 100_000, "estimate_share": 0.6})
    about = note["minutes"]
    assert [row["name"] for row in about["tried"]] == ["default"] and about["expected"]["dice"] is not None
    assert "compared from 100000" in about["only_default"]


def test_a_budget_too_short_for_one_step_says_the_least(go: Go, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"too short for one step .* Give at least .* s\)"):
        go(0.5)
    assert not (tmp_path / "m").exists()


def test_a_pick_that_the_start_cannot_take_is_left_out(
    go: Go, make_portfolio: MakePortfolio, caplog: pytest.LogCaptureFixture
) -> None:
    note = go(6, portfolio=make_portfolio({"width": "64"}, {"pipeline/margin": "9"}))
    assert "width=64 is left out" in caplog.text and "margin=9 is left out" in caplog.text
    assert note["minutes"]["chosen"]["name"] == "default"


def test_one_scan_is_estimated_on_its_copies_and_says_that_it_is_weak(go: Go, make_portfolio: MakePortfolio) -> None:
    note = go(50, portfolio=make_portfolio(*OTHERS), shots=1, how={"estimate_share": 0.6})
    expected = note["minutes"]["expected"]
    assert expected["weak"] and expected["low"] is None and "other patients" in expected["words"]
    assert [row["name"] for row in note["minutes"]["tried"]] == ["default"]


def test_a_stopped_search_keeps_its_best_model_and_goes_on(
    go: Go, make_portfolio: MakePortfolio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portfolio, out = make_portfolio(*OTHERS), tmp_path / "m"
    with pytest.raises(KeyboardInterrupt):
        go(50, clock=Ticker(at=25), portfolio=portfolio)
    about = json.loads((out / "adaptation.json").read_text())["minutes"]
    assert about["stopped"] and "best model so far" in about["chosen"]["why"]
    Model.load(out, "cpu", "float32")
    done = {path.name for path in (out / "fits").glob("0-*.json")}
    spent = json.loads((out / "fits" / "search.json").read_text())["spent"]
    assert done and 0 < spent < 26
    with pytest.raises(CheckpointError, match="--resume"):
        go(50, portfolio=portfolio)
    with pytest.raises(CheckpointError, match="another start, support"):
        go(50, portfolio=portfolio, resume=True, seed=5)
    from metanas_med.engine.minutes import worker

    keys, real = list[str](), worker.run_fit

    def counted(ground: Any, fit: Any, *rest: Any) -> Any:
        keys.append(fit.key)
        return real(ground, fit, *rest)

    monkeypatch.setattr(worker, "run_fit", counted)
    clock = Ticker()
    note = go(50, clock=clock, portfolio=portfolio, resume=True)
    assert not {f"{key}.json" for key in keys} & done and not note["minutes"]["stopped"]
    assert clock.passed < 50 - spent + 5 and not (out / "fits").exists()
    with pytest.raises(CheckpointError, match="already holds a model|no stopped search"):
        go(50, portfolio=portfolio, resume=True)


def test_a_killed_search_loses_only_the_running_fit(go: Go, make_portfolio: MakePortfolio, tmp_path: Path) -> None:
    portfolio, out = make_portfolio(*OTHERS), tmp_path / "m"
    with pytest.raises(Killed):
        go(50, clock=Ticker(at=25, error=Killed), portfolio=portfolio)
    assert not (out / "model.json").exists()
    (best,) = (out / "fits" / "models").iterdir()
    Model.load(best, "cpu", "float32")
    assert not go(50, portfolio=portfolio, resume=True)["minutes"]["stopped"]
    assert (out / "model.json").exists()


def test_a_signal_in_the_final_fit_ends_it_early_and_writes_it(go: Go, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # a program in the background may ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def stop(news: News) -> None:
        if "final" in news.doing and news.spent > 10:
            os.kill(os.getpid(), signal.SIGINT)

    clock = Ticker()
    with pytest.raises(KeyboardInterrupt):
        go(50, clock=clock, on_news=stop, how={"least_estimate_steps": 10**6})
    note = json.loads((tmp_path / "m" / "adaptation.json").read_text())
    assert note["minutes"]["stopped"] and clock.passed < 30 and note["report"]["steps"] == len(note["report"]["losses"])
    note = go(50, resume=True, how={"least_estimate_steps": 10**6})
    assert not note["minutes"]["stopped"]


def test_folds_without_an_organ(go: Go, pair: CachedDataset, make_portfolio: MakePortfolio) -> None:
    data = open_cache(pair.path)
    names = [case.name for case in data.cases][:3]
    # one organ is annotated in a single scan: no training side of the other fold holds it
    left = next(value for value, name in data.labels.items() if name == "left")
    data.cases = tuple(replace(case, annotated=(left,)) if case.name in names[1:] else case for case in data.cases)
    note = go(50, data=data, shots=None, support=tuple(names), portfolio=make_portfolio(OTHERS[0]))
    assert note["minutes"]["expected"]["dice"] is not None
