"""Presets of task learners: chosen by one line, checked before data are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from metanas_med.cli import main
from metanas_med.engine.learner_presets import preset_about, preset_names
from metanas_med.engine.settings import load_settings
from metanas_med.errors import ConfigError


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_chosen_by_one_line(name: str, tmp_path: Path) -> None:
    """As text in YAML, on the command line, and as a key next to other values, which win."""
    path = tmp_path / "run.yaml"
    path.write_text(f"learner: {name}\nadapt: {name}\n")
    settings = load_settings(path)
    assert settings == load_settings(None, ["--learner", name, "--adapt", name])
    path.write_text(f"learner: {{preset: {name}, steps: 7}}\nadapt: {name}\n")
    assert load_settings(path) == load_settings(None, ["--learner.steps", "7", "--learner", name, "--adapt", name])
    assert load_settings(path).learner.steps == 7
    assert settings.adapt.alpha == "adapt" and "arXiv" in preset_about(name)  # type: ignore[attr-defined]


def test_an_unknown_preset_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gdas'"):
        load_settings(None, ["--learner", "gdass"])


def test_presets_are_listed_with_their_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "learner-presets"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}: " in shown for name in preset_names())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--adapt.alpha", "adapt", "--adapt.relaxation.name", "proxyless"], "first_order"),
        (["--adapt.alpha", "adapt", "--adapt.relaxation.name", "uniform"], "evolution"),
        (["--learner", "single_path", "--learner.regularizers", "[{name: beta_decay}]"], "alphas do not move"),
    ],
)
def test_an_impossible_combination_is_refused_with_what_to_do(given: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_settings(None, given)
    assert "Value error" not in str(caught.value) and "{" not in str(caught.value)
