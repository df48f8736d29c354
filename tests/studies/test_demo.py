"""The demo at a size of seconds: its table is that of its files, and it tidies up after itself alone."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.settings import Settings
from metanas_med.studies import demo as module


def read(*place: str | Path) -> Any:
    return json.loads(Path(*place).read_text())


def test_the_table_and_the_files(
    tiny_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(module, "NUM_CASES", 7)  # five of the held-out organ are support
    monkeypatch.setattr(module, "make_phantoms", partial(module.make_phantoms, scale=0.35))
    settings: Settings = tiny_settings(**{"meta.iterations": 1, "meta.batch": 1, "meta.num_validation": 0})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    out = module.demo(str(tmp_path / "tiny.yaml"), ["--meta.beta_weights", "0.3"], tmp_path / "out")
    assert out == tmp_path / "out"

    # the organ is held out, and what is scored was neither trained on nor support
    note = load_state(out / "meta", "last", "meta-state")[1]
    assert note["held_out"] == [module.HELD_OUT] and note["settings"]["meta"]["beta_weights"] == 0.3
    assert not [key for key in note["train_tasks"] if key.startswith(module.HELD_OUT)]
    twenty, five, scratch5, scratch20 = (
        read(out, f, "adaptation.json") for f in ("adapted", "steps5", "scratch/5", "scratch/20")
    )
    assert [n["report"]["steps"] for n in (twenty, five, scratch5, scratch20)] == [20, 5, 5, 20]
    assert len(twenty["support"]) == 5 and len(twenty["scored"]) == 2 and not set(twenty["support"]) & set(twenty["scored"])
    for other in (five, scratch5, scratch20):
        assert other["support"] == twenty["support"] and other["scored"].keys() == twenty["scored"].keys()
    # from scratch: the same architecture, other weights
    assert scratch20["report"]["genotype"]["picks"] == twenty["report"]["genotype"]["picks"]
    assert scratch20["dice_before"] != twenty["dice_before"]

    shown = capsys.readouterr().out
    assert f"Dice on 2 held-back scans of {module.HELD_OUT}, 5 support scans" in " ".join(shown.split())
    rows = [re.findall(r"[\d.]+", line) for line in shown.splitlines() if re.match(r"│ +\d+ ", line)]
    assert rows == [
        ["0", f"{twenty['dice_before']:.3f}", f"{scratch20['dice_before']:.3f}"],
        ["5", f"{five['dice_after']:.3f}", f"{scratch5['dice_after']:.3f}"],
        ["20", f"{twenty['dice_after']:.3f}", f"{scratch20['dice_after']:.3f}"],
    ]
    summary = read(out, "evaluation", "summary.json")
    assert f"evaluate: Dice {summary['all_organs']['dice']['mean']:.3f} on 2 scan(s)" in shown and summary["num_cases"] == 2
    assert {p.name for p in (out / "predictions").iterdir()} == {f"{name}.nii.gz" for name in twenty["scored"]}
    for name in ("adapted/model.safetensors", "adapted/architecture.svg", "adapted/overlay.png", "meta/figures/alphas.png"):
        assert (out / name).stat().st_size > 0
    assert "architecture (" in shown and "enc0: " in shown

    # the next demo begins anew, but for data and cache
    module._clear(out)
    assert {p.name for p in out.iterdir()} == {"demo.txt", "data", "cache"}
