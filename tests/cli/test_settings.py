"""Organs, shots, options and settings with a mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from metanas_med.cli import main

from .shared import Refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--organ", "heart"], "no organ 'heart'; known: left, right; or 'all'"),
        (["--organ", "lefft"], "no organ 'lefft'; did you mean 'left'. known: left, right"),
        (["--organ", "left", "--shots", "7"], r"7 shots were asked for, found 6 patient\(s\) with the organ"),
        (["--organ", "left", "--shots", "0"], "0 shots were asked for, expected at least one"),
        (["--support", "pair_01"], "no case 'pair_01'; did you mean 'pair_0"),
        (["--adapt.step", "3"], "unknown setting 'adapt.step'; did you mean 'steps'"),
        (["--adapt.lr", "-1"], "setting adapt.lr: Input should be greater than 0, found -1"),
        (["--plan.view_voxels", "[1"], "'.1' is not YAML"),
        (["--adapt.lr"], "--adapt.lr needs a value"),
        (["--device", "abacus"], "device 'abacus' is not known"),
        (["--device", "mps"], "device 'mps' is not supported; expected auto, cpu, cuda or cuda:N"),
        (["--device", "meta"], "device 'meta' is not supported"),
        (["--support", "pair_00", "--shots", "1"], "--shots has no effect with --support"),
    ],
)
def test_adapt_with_a_mistake(
    tiny_run: Path, pair: Path, tmp_path: Path, refused: Refused, arguments: list[str], message: str
) -> None:
    assert re.search(message, refused("adapt", tiny_run, pair, "--out", tmp_path / "model", *arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--meta.iteration", "5"], "unknown setting 'meta.iteration'; did you mean 'iterations'"),
        (["--lerner.steps", "5"], "unknown setting 'lerner'; did you mean 'learner'"),
        (["--meta.iterations", "many"], "setting meta.iterations: .*valid integer.*'many'"),
        (["--space.name", "unet_supernett"], "did you mean 'unet_supernet'"),
        (["--learner.name", "dart"], "did you mean 'darts'"),
        (["--meta.name", "reptil"], "did you mean 'reptile'"),
        (["--tasks.hold_out", "[Phantom06_Pear]"], "did you mean 'Phantom06_Pair'"),
        (["--tasks.distribution", "without_hart"], "did you mean 'without_heart'"),
        (["--config", "meta_trian"], "no shipped configs entry is called 'meta_trian'; did you mean 'meta_train'"),
        (["--meta.name", "fomaml"], r"meta\.name fomaml needs .* Choose learner\.name sgd"),
        (["--learner.alpha_gradient.name", "third_order"], "unknown alpha_gradient.name 'third_order'"),
        (["--learner.bilevel", "false"], "unknown setting 'learner.bilevel'"),
        (["--track", "wandb"], "setting track: "),
        (["--resume"], r"holds no last\.json"),
    ],
)
def test_meta_train_with_a_mistake(config: Path, tmp_path: Path, refused: Refused, arguments: list[str], message: str) -> None:
    shown = refused("meta-train", "--config", config, "--out", tmp_path / "run", *arguments)
    assert re.search(message, shown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meta: {iteration: 3}", "unknown setting 'meta.iteration'; did you mean 'iterations'"),
        ("meta: [", "is not YAML"),
        ("- meta", "expected sections of keys, found list"),
        ("meta: 3", "setting meta: "),
    ],
)
def test_a_bad_configuration_file(tmp_path: Path, refused: Refused, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert message in refused("meta-train", "--config", path, "--out", tmp_path / "run")


def test_arguments_that_no_command_knows(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["prepare", "x", "--meta.iterations", "3"], ["train"], []):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2 and "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapt", "run", "data", "--shotz", "5", "--out", "x"], "unknown option --shotz; did you mean '--shots'?"),
        (["predict", "--skip-bda", "model", "scan", "--out", "x"], "unknown option --skip-bda; did you mean '--skip-bad'?"),
        (["study", "benchmark", "--draw", "3"], "unknown option --draw; did you mean '--draws'?"),
        (["prepare", "x", "--meta.iterations", "3"], "unknown option --meta.iterations; known: --any-intensities, --cache"),
        (["meta-train", "stray"], "unrecognized arguments: stray"),
        (["adpt", "run", "data"], "unknown command 'adpt'; did you mean 'adapt'?"),
        (["train"], "unknown command 'train'; did you mean 'meta-train'?"),
        (["xyz"], "unknown command 'xyz'; known: adapt, completion, config, "),
        (["meta-train", "--meta.iterations", "--meta.batch", "3"], "--meta.iterations needs a value"),
    ],
)
def test_an_unknown_option_is_reported_in_two_lines(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    told = capsys.readouterr().err
    assert code == 2 and f"error: {message}" in told and told.count("\n") <= 2


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("setting", [["--adapt.lr", "-1"], ["--adapt.lr=-1"], ["--precision", "float1"]])
def test_a_setting_may_stand_anywhere(
    place: int, setting: list[str], tiny_run: Path, pair: Path, tmp_path: Path, refused
) -> None:
    arguments = ["adapt", tiny_run, pair, "--out", tmp_path / "model"]
    shown = refused(*arguments[:place], *setting, *arguments[place:])
    assert f"setting {setting[0][2:].partition('=')[0]}: Input should be" in shown


@pytest.mark.parametrize("flag", ["--learner.lr", "--space.base_width", "--threads", "--features.lr", "--adaptation.lr"])
def test_adapt_refuses_settings_that_it_would_ignore(
    flag: str, tiny_run: Path, phantom_cache: Path, tmp_path: Path, refused: Refused
) -> None:
    job = ["adapt", tiny_run, phantom_cache / "Phantom06_Pair.h5", "--out", tmp_path / "model"]
    assert f"{flag} has no effect here" in refused(*job, flag, "1")


@pytest.mark.parametrize(
    ("flag", "option"),
    [("--adapt.steps", "--steps or --minutes"), ("--pretext.names", "--pretext"), ("--pretext.steps", "--unlabelled-steps")],
)
def test_adapt_names_the_option_that_sets_a_setting(
    flag: str, option: str, tiny_run: Path, pair: Path, tmp_path: Path, refused: Refused
) -> None:
    for given in ([flag, "3"], [f"{flag}=3"]):
        assert f"use {option} instead" in refused("adapt", tiny_run, pair, "--out", tmp_path / "model", *given)


def test_adapt_reads_a_precision(tiny_run: Path, phantom_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    note = {"organs": [], "support": [], "report": {"steps": 0, "gap_at_switch": None}, "seconds": 0.0}

    def adapt(run: Any, data: Any, out: Any, settings: Any, **given: Any) -> dict[str, Any]:
        seen["settings"] = settings
        return {**note, "dice_after": None, "patients_known": True}

    monkeypatch.setattr("metanas_med.engine.adapt.adapt", adapt)
    job = ["adapt", str(tiny_run), str(phantom_cache / "Phantom06_Pair.h5"), "--out", str(tmp_path / "model")]
    assert main([*job, "--precision", "float32", "--adapt.lr", "0.01"]) == 0
    assert seen["settings"].precision == "float32" and seen["settings"].learner.lr == 0.01


@pytest.mark.parametrize(("flag", "value"), [("--seed", "-1"), ("--steps", "-3"), ("--evaluate", "-1")])
def test_numbers_out_of_bounds_are_refused_by_name(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["adapt", "run", "data", "--out", "out", flag, value])
    assert stopped.value.code == 2
    assert re.search(f"argument {flag}: expected at least [01], found {value}", capsys.readouterr().err)
