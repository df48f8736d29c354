"""The page of the study, from ``compare_runs.csv`` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError
from ...files import write_text
from ...report.tables import markdown_table
from ..grid.published import rows_to_show

META, FRESH = "meta-learned", "fresh"
#: (start, steps) of every run
STARTS = ((META, 0), (META, 5), (META, 20), (FRESH, 0), (FRESH, 20))
#: scans in a support, and query scans
SHOTS, QUERY = 5, 8


def write_page(out: Path) -> Path:
    """Return the path of ``out``/compare_runs.md after writing it from ``out``/compare_runs.csv."""
    write_text(out / "compare_runs.md", page(rows_to_show(out / "compare_runs.csv")))
    return out / "compare_runs.md"


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page's text."""
    table, names = [], list(dict.fromkeys(r["name"] for r in rows))
    for name in names:
        mine = [r for r in rows if r["name"] == name]
        line: dict[str, Any] = {"meta-training": name, "runs": len({r["checkpoint"] for r in mine})}
        line["iterations"] = f"{np.mean([int(r['iterations']) for r in mine]):.0f}"
        line["minutes"] = f"{np.mean([float(r['meta_seconds']) for r in mine]) / 60:.1f}"
        for start, steps in STARTS:
            if chosen := [r for r in mine if r["start"] == start and int(r["steps"]) == steps]:
                values = _array(chosen)
                low, high = bootstrap_mean(values)
                line[f"{start}, {steps} steps"] = f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"
        table.append(line)
    by_set = [
        {"meta-training": name, "start": start, **_by_dataset([r for r in rows if (r["name"], r["start"]) == (name, start)], 20)}
        for name in names
        for start in (META, FRESH)
    ]
    draws, codes = len({r["draw"] for r in rows}), ", ".join(sorted({r["code"] for r in rows}))
    return (
        "# What meta-trainings gain\n\nWritten by `metanas-med study compare-runs NAME=RUN,RUN... --out docs/results` from "
        f"`compare_runs.csv`. Mean Dice over the data sets of the development groups, which are held out together; {SHOTS} "
        f"scans, {draws} draw(s), {QUERY} query scans, frozen alpha, the benchmark's settings. *fresh*: two sets of new "
        "weights of the first run's network, one a draw.\n\n"
        "Intervals resample runs and draws, but not data sets and query scans. They are too narrow for two or three draws or "
        "runs. With one run they do not cover variance between meta-trainings. Code of the adaptations: "
        f"{codes}.\n\n{markdown_table(table)}\n\n"
        f"By data set, after 20 steps:\n\n{markdown_table(by_set)}\n"
    )


def _by_dataset(rows: Sequence[Mapping[str, Any]], steps: int) -> dict[str, str]:
    chosen = [r for r in rows if int(r["steps"]) == steps]
    names = sorted({str(r["dataset"]) for r in chosen})
    return {name: f"{np.mean([float(r['dice']) for r in chosen if r['dataset'] == name]):.3f}" for name in names}


def _array(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return Dice (runs, data sets, draws); ConfigError where a part is missing."""
    axes = [sorted({str(r[key]) for r in rows}) for key in ("checkpoint", "dataset", "draw")]
    found = {(str(r["checkpoint"]), str(r["dataset"]), str(r["draw"])): float(r["dice"]) for r in rows}
    if len(found) != np.prod([len(axis) for axis in axes]):
        raise ConfigError(f"{rows[0]['name']}: some runs lack data sets or draws. Run the study again to its end.")
    return np.array([[[found[run, dataset, draw] for draw in axes[2]] for dataset in axes[1]] for run in axes[0]])


def bootstrap_mean(values: np.ndarray, times: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of ``values`` (runs, data sets, draws).

    Runs, and the draws of each data set, are resampled. A resample has one item fewer than the sample, so that the variance
    of a mean is unbiased (Rao and Wu 1988, doi 10.1080/01621459.1988.10478591).
    """
    rng, (runs, sets, draws) = np.random.default_rng(0), values.shape
    which = rng.integers(runs, size=(times, max(runs - 1, 1), 1, 1))
    drawn = rng.integers(draws, size=(times, 1, sets, max(draws - 1, 1)))
    means = values[which, np.arange(sets)[None, None, :, None], drawn].mean((1, 2, 3))
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))
