"""The ablation: settings differ from the benchmark's, only held-out organs are used, a stopped study resumes, the page."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metanas_med.data.cached import open_caches
from metanas_med.engine.meta_run import MetaRun
from metanas_med.errors import CheckpointError, DataError
from metanas_med.files import read_csv, write_csv
from metanas_med.studies.ablation import run as module
from metanas_med.studies.ablation.run import held_out_of
from metanas_med.studies.ablation.settings import DRAWS, OWN, SETTINGS
from metanas_med.studies.benchmark.settings import shipped_benchmark


@pytest.fixture(scope="module")
def benchmark() -> Any:
    return shipped_benchmark()


def test_every_setting_differs_from_the_benchmarks(benchmark: Any) -> None:
    for name, changes in SETTINGS.items():
        own, plan = benchmark.run.adapt, benchmark.plan
        changes = {k: v for k, v in changes.items() if k not in ("fresh", "lead", "tta")}
        for key, value in changes.pop("plan", {}).items():
            assert getattr(plan, key) != value, (name, key)
        for key, value in changes.items():
            assert getattr(own, key) != value, (name, key)
        # the changed settings are valid together
        type(own).model_validate(own.model_dump() | changes)


def test_only_what_a_run_held_out_is_chosen_on(benchmark: Any, tiny_run: Path, phantom_cache: Path) -> None:
    with pytest.raises(DataError, match="held out none of Ext20_ProstateMR"):
        held_out_of(benchmark, open_caches(phantom_cache), [MetaRun.load(tiny_run)])


def row(setting: str, draw: int, case: str, dice: float, moved: int = 0, gap: Any = 0.1) -> dict[str, Any]:
    return {
        "setting": setting,
        "dataset": "Phantom06_Pair",
        "draw": draw,
        "seed": 0,
        "moved": moved,
        "gap_at_switch": gap,
        "processor_seconds": 10 + draw,
        "support_hash": f"s{draw}",
        "checkpoint": "c",
        "settings": "x",
        "code": "v",
        "case": case,
        "organ": "left",
        "dice": dice,
    }


def test_a_stopped_grid_goes_on_and_the_page_pairs_draws_and_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, str]] = []

    def measured(benchmark: Any, run: Any, data: Any, draw: int, setting: str) -> list[dict[str, Any]]:
        if len(made) == 4:
            made.append((draw, setting))
            raise KeyboardInterrupt
        made.append((draw, setting))
        better = 0.05 if setting == "alpha frozen" else 0.0
        gap = "" if setting == "alpha frozen" else 0.1
        return [
            row(setting, draw, f"case{i}", 0.5 + 0.1 * draw + 0.01 * i + better, int(draw > 0 and gap != ""), gap)
            for i in range(3)
        ]

    run = SimpleNamespace(sha256="c")
    monkeypatch.setattr(module, "measured", measured)
    monkeypatch.setattr(module, "settings_hash", lambda benchmark: "x")
    monkeypatch.setattr(module, "open_caches", lambda cache: {})
    monkeypatch.setattr(module.MetaRun, "load", lambda folder: run)
    monkeypatch.setattr(module, "held_out_of", lambda *given: [(SimpleNamespace(name="Phantom06_Pair"), run)])
    with pytest.raises(KeyboardInterrupt):
        module.run_ablation(tmp_path, tmp_path, [tmp_path])
    module.run_ablation(tmp_path, tmp_path, [tmp_path])
    assert len(made) == DRAWS * len(SETTINGS) + 1 and made[5] == made[4]
    lines = {line.split(" | ")[0].lstrip("| "): line for line in (tmp_path / "ablation.md").read_text().splitlines()}
    assert lines["alpha frozen"] == "| alpha frozen | 0.660 | 3 | 0.660 | +0.050 [+0.050, +0.050] |  |  | 11.0 |"
    assert lines[OWN] == f"| {OWN} | 0.610 | 3 | 0.610 |  | 2 of 3 | 0.100 | 11.0 |"
    rows = [*read_csv(tmp_path / "ablation.csv")]
    write_csv(tmp_path / "ablation.csv", [r | {"checkpoint": "other"} for r in rows])
    with pytest.raises(CheckpointError, match="rows of other runs"):
        module.run_ablation(tmp_path, tmp_path, [tmp_path])
