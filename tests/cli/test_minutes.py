"""``adapt --minutes`` on the command line: options that exclude each other, its output, and how to go on."""

from __future__ import annotations

import json
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from metanas_med.cli import main
from metanas_med.cli.minutes import split_flags
from metanas_med.engine.minutes import run

from .shared import Refused


def test_options_that_exclude_each_other(refused: Refused, tiny_run: Path, pair: Path, tmp_path: Path) -> None:
    base = ("adapt", tiny_run, pair, "--out", tmp_path / "m")
    assert "--minutes and --steps exclude each other" in refused(*base, "--minutes", 1, "--steps", 5)
    assert "--minutes and --unlabelled exclude" in refused(*base, "--minutes", 1, "--unlabelled", pair)
    assert "--resume has no effect without --minutes" in refused(*base, "--resume")
    assert "--minutes.eta has no effect without --minutes" in refused(*base, "--minutes.eta", 2)
    assert "minutes.etta" in refused(*base, "--minutes", 1, "--minutes.etta", 2)
    assert "holds no stopped search" in refused(*base, "--minutes", 1, "--resume")
    assert "use --steps or --minutes instead" in refused(*base, "--adapt.steps", 5)


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "soon"])
def test_minutes_are_a_number_above_zero(text: str, tiny_run: Path, pair: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["adapt", str(tiny_run), str(pair), "--out", str(tmp_path / "m"), f"--minutes={text}"])
    assert stop.value.code == 2 and not (tmp_path / "m").exists()


def test_flags_of_minutes_and_others() -> None:
    given = ["--minutes.eta", "2", "--plan.margin", "2", "--minutes.folds=3"]
    assert split_flags(given) == (["--minutes.eta", "2", "--minutes.folds=3"], ["--plan.margin", "2"])


def test_what_a_short_budget_prints(
    tiny_run: Path, pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    time = count(0, 0.1)  # passes where it is looked at, so that a busy machine does not matter
    real = run.adapt_minutes
    monkeypatch.setattr(run, "adapt_minutes", partial(real, now=lambda: next(time)))
    command = ["adapt", str(tiny_run), str(pair), "--shots", "2", "--evaluate", "1", "--no-images", "--device", "cpu"]
    own = ["--minutes.least_estimate_steps", "1000000", "--minutes.write_seconds", "0.1"]
    assert main([*command, "--minutes", "0.1", *own, "--out", str(tmp_path / "m")]) == 0
    out, err = capsys.readouterr()
    assert "chosen: default" in out and "Dice to expect on new scans: unknown" in out and "spent" in out and "left" in err
    assert json.loads((tmp_path / "m" / "adaptation.json").read_text())["minutes"]["minutes"] == 0.1
