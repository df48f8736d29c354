"""The report comes from its CSV alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from metanas_med.errors import ConfigError
from metanas_med.files import write_csv
from metanas_med.studies.unnas.report import by_architecture, read_results, write_report
from metanas_med.studies.unnas.run_cell import COLUMNS

from .made_up import Make, made_up


def test_the_report_shows_the_correlations_of_its_rows(make: Make) -> None:
    settings = make(num_architectures=30, levels=[2, 3], base_widths=[2, 4, 8], space={"max_width": 16})
    folder = Path(settings.results)
    rows = made_up(settings)
    write_csv(folder / "unnas.csv", rows, COLUMNS)
    page = write_report(folder, settings).read_text()
    table = by_architecture(read_results(folder / "unnas.csv"))
    assert (
        "The grid is complete: 30 architectures, 30 of them" in page and "Data: Made_Up; 9 scans are scored, 18 scans of" in page
    )
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in page.splitlines() if line.startswith("| ")}
    correlations, against = page.split("## The chosen")[0].split("Does the task need to use the scans?")
    line = {part.split(" | ")[0].strip("| "): part.split(" | ") for part in correlations.splitlines() if part.startswith("| ")}
    assert line["labels, seed 0"][3] == "" and float(line["labels, seed 0"][2].split()[0]) > 0.97
    assert all(float(line["rotation"][k].split()[0]) > 0.97 for k in (2, 3))
    assert float(line["rotation"][4].split()[0]) > 0.95
    # random labels follow size alone: a correlation at equal cost has no meaning and is left out
    assert line["random-labels"][2] == line["multiply-adds"][2]
    assert line["random-labels"][4].strip(" |") == ""
    assert "Intervals are 95 % intervals, because 1 task(s) are compared." in against
    gain = next(part for part in against.splitlines() if part.startswith("| rotation")).split(" | ")
    labels, rotation, loss = (np.array([r[k] for r in table]) for k in ("labels", "rotation", "random-labels"))
    assert gain[1].split()[0] == f"{np.asarray(spearmanr(rotation, labels))[0] - np.asarray(spearmanr(loss, labels))[0]:+.2f}"
    best = max(table, key=lambda r: r["rotation"])
    text = page.split("## The chosen architecture")[1]
    assert f"| rotation | {best['architecture']} ({best['hash']};" in text and f"{best['labels 1']:.3f} [" in text
    mean = float(np.mean([r["labels 1"] for r in table]))
    assert f"| chance | – | {mean:.3f} [" in text
    assert f"{best['labels 1'] - mean:+.3f} [" in text
    assert lines["labels"][1].strip() == "60" and "(unnas.png)" in page
    assert 1000 < (folder / "unnas.png").stat().st_size < 300 * 1024
    assert "Machine: a CPU. Precision: float32." in page and "fitted into 0.25 s of one thread's" in page


def test_the_report_of_an_unfinished_grid_says_so(make: Make) -> None:
    settings = make(num_architectures=6, levels=[2, 3])
    folder = Path(settings.results)
    rows = made_up(settings, missing=7)  # two pretext tasks of the fifth, and all but one cell of the sixth
    write_csv(folder / "unnas.csv", rows, COLUMNS)
    page = write_report(folder, settings).read_text()
    assert "**The grid is unfinished: 17 of 24 cells**" in page
    write_csv(folder / "unnas.csv", rows[:2], COLUMNS)
    assert "Too few architectures are done" in write_report(folder, settings).read_text()
    write_csv(folder / "unnas.csv", [*rows, rows[0]], COLUMNS)
    with pytest.raises(ConfigError, match="occurs twice"):
        write_report(folder, settings)
    write_csv(folder / "unnas.csv", [*rows, {**rows[0], "seed": 5, "hash": "00000000"}], COLUMNS)
    with pytest.raises(ConfigError, match="has two hashes"):
        write_report(folder, settings)
