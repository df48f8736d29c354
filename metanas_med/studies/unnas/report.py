"""The page of the study: correlations, choices and a scatter plot, from ``unnas.csv`` alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError
from ...files import read_csv, write_text
from ...report.correlation import Estimate, advantage, estimate, judged_choice, partial_spearman, spearman, spearman_gain
from ...report.scatter import scatter
from ...report.tables import markdown_table
from .cells import LABELS, SPARE, grid
from .settings import UnnasSettings
from .tasks import RANDOM_LABELS

Row = dict[str, Any]

#: properties of an architecture without any training, used as predictors like the pretext tasks
SIZES = {"multiply_adds": "multiply-adds", "parameters": "parameters", "receptive_field": "receptive field"}
FIRST, SECOND = f"{LABELS} 0", f"{LABELS} 1"


def read_results(path: Path) -> list[Row]:
    """Return the rows of a CSV with numbers as numbers and empty ones None.

    ConfigError where one number names two architectures, or a cell occurs twice.
    """
    rows = [_typed(row) for row in read_csv(path)]
    hashes: dict[int, str] = {}
    seen = set()
    for row in rows:
        if hashes.setdefault(row["architecture"], row["hash"]) != row["hash"]:
            raise ConfigError(f"{path}: architecture {row['architecture']} has two hashes: cells of two grids are mixed")
        key = (row["architecture"], row["task"], row["seed"])
        if key in seen:
            raise ConfigError(f"{path}: architecture {key[0]}, {key[1]}, seed {key[2]} occurs twice")
        seen.add(key)
    return rows


def _typed(row: Mapping[str, str]) -> Row:
    whole = ("architecture", "levels", "base_width", "parameters", "multiply_adds", "seed", "steps", "num_train", "num_query")
    real = ("receptive_field", "dice", "accuracy", "train_dice", "train_accuracy", "train_loss", "cpu_seconds", "wall_seconds")
    numbers: Row = {name: int(row[name]) for name in whole}
    return {**row, **numbers, **{name: float(row[name]) if row[name] else None for name in real}}


def by_architecture(rows: Sequence[Row]) -> list[Row]:
    """Return one row an architecture: properties, ``labels SEED``, each pretext task's score, and ``labels`` (mean of seeds 0, 1).

    The score is the mean Dice on scans of other patients. Random labels cannot be predicted there, and every network
    memorises them eventually. Their score is minus the mean training loss, that is how fast: an estimate by training speed
    (Ru et al. 2021, arXiv 2006.04492).
    """
    table: dict[int, Row] = {}
    for row in rows:
        mine = table.setdefault(
            row["architecture"], {k: row[k] for k in ("architecture", "hash", "levels", "base_width", *SIZES)}
        )
        name = f"{LABELS} {row['seed']}" if row["task"] == LABELS else row["task"]
        mine[name] = -row["train_loss"] if row["task"] == RANDOM_LABELS else row["dice"]
    for mine in table.values():
        if FIRST in mine and SECOND in mine:
            mine[LABELS] = (mine[FIRST] + mine[SECOND]) / 2
    return [table[number] for number in sorted(table)]


def columns_of(table: Sequence[Row], *names: str) -> list[list[float]]:
    """Return the columns ``names`` over the architectures that have all of them."""
    whole = [row for row in table if all(row.get(name) is not None for name in names)]
    return [[float(row[name]) for row in whole] for name in names]


def write_report(folder: Path, settings: UnnasSettings) -> Path:
    """Return the path of ``unnas.md`` after writing it, and ``unnas.png``, from ``folder/unnas.csv``."""
    rows = read_results(folder / "unnas.csv")
    table = by_architecture(rows)
    pretexts = [name for name in settings.pretexts if any(name in row for row in table)]
    path = folder / "unnas.md"
    titles = {FIRST: "labels, seed 0", **{name: name for name in pretexts}, **SIZES}
    drawn = {name: title for name, title in titles.items() if columns_of(table, name, LABELS)[0]}
    picture = ""
    if drawn:
        # a mean that includes seed 0 would make the panel of seed 0 look too good
        shown = [{**row, "width": row["base_width"], "other": row.get(SECOND)} for row in table]
        scatter(folder / "unnas.png", shown, drawn, "other", "Dice with labels, seed 1", "width", "levels")
        picture = "\n![Every score against the Dice with labels](unnas.png)\n"
    correlations = [_correlations(table, pretexts), _gains(table, pretexts)]
    parts = [_head(rows, settings), *correlations, picture, _choices(table, pretexts), _details(rows)]
    write_text(path, "".join(parts))
    return path


def _head(rows: Sequence[Row], settings: UnnasSettings) -> str:
    planned = {(c.number, c.hash, c.task, c.seed) for c in grid(settings)}
    done = len(planned & {(r["architecture"], r["hash"], r["task"], r["seed"]) for r in rows})
    state = (
        "The grid is complete"
        if done == len(planned)
        else f"**The grid is unfinished: {done} of {len(planned)} cells**; the same command runs the rest"
    )
    whole = len(columns_of(by_architecture(rows), LABELS)[0])
    first, least = rows[0], min(r["cpu_seconds"] for r in rows)
    return (
        "# Do label-free tasks rank architectures?\n\n"
        "Written by `metanas-med study unnas` (the page alone: `--report`) from `unnas.csv`, whose rows name code revision, "
        "seed and architecture. UnNAS (Liu et al. 2020, arXiv 2003.12056, section 4) asked this question first.\n\n"
        f"{state}: {len({r['architecture'] for r in rows})} architectures, {whole} of them with both label seeds.\n\n"
        f"Data: {first['dataset']}; {first['num_query']} scans are scored, {first['num_train']} scans of other patients train. "
        f"Every cell starts from its own fresh weights and takes as many steps as fitted into {SPARE * settings.seconds:g} s "
        "of one thread's processor time when the steps of all architectures on all tasks were timed, before the first "
        f"training. So a larger network takes fewer steps, and a slow hour removes none (the shortest training: {least:.1f} "
        "s). Optimizer, batch and schedule are the same.\n\n"
        "With labels the score is the mean Dice of whole scans. For a pretext task it is the mean Dice over classes on volumes "
        "made from the same scans; all architectures get the same volumes. Random labels cannot be predicted on other scans; "
        "their score is how fast they are memorised: minus the mean training loss, an estimate by training speed (Ru et al. "
        "2021, arXiv 2006.04492).\n"
    )


def _words(found: Estimate | None) -> str:
    return "" if found is None else f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _correlations(table: Sequence[Row], pretexts: Sequence[str]) -> str:
    lines = []
    for name, title in {FIRST: "labels, seed 0", **{p: p for p in pretexts}, **SIZES}.items():
        given = "multiply_adds"
        line: Row = {"ranked by": title, "architectures": len(columns_of(table, name, SECOND)[0])}
        line["with labels, seed 1"] = _words(estimate(spearman, *columns_of(table, name, SECOND)))
        # the mean of both seeds includes seed 0
        line["with the mean of both seeds"] = (
            "" if name == FIRST else _words(estimate(spearman, *columns_of(table, name, LABELS)))
        )
        line["at equal multiply-adds, seed 1"] = (
            "" if name == given else _words(estimate(partial_spearman, *columns_of(table, name, SECOND, given)))
        )
        lines.append(line)
    return (
        "\n## Rank correlations\n\nSpearman's rank correlation, with 95 % intervals by bootstrap over architectures. The first "
        "line compares one training with labels with another: a score with the same noise can reach this value in its column. "
        f"{_ceiling(table)}*At equal multiply-adds*: the partial correlation with labels, seed 1, given the ranks of cost.\n\n"
        f"{markdown_table(lines)}"
    )


def _gains(table: Sequence[Row], pretexts: Sequence[str]) -> str:
    tasks = [name for name in pretexts if name != RANDOM_LABELS]
    lines: list[Row] = []
    for name in tasks:
        found = {
            f"more than {rival}": estimate(spearman_gain, *columns_of(table, name, rival, LABELS), looks=len(tasks))
            for rival in (RANDOM_LABELS, "parameters")
        }
        if any(found.values()):
            lines.append({"ranked by": name, **{title: _words(value) for title, value in found.items()}})
    if not lines:
        return ""
    return (
        "\nDoes the task need to use the scans? The table shows the correlation with the mean of both seeds, minus that of a "
        f"predictor that knows no scan, on the same architectures and resamples. Intervals are {100 - 5 / len(tasks):g} % "
        f"intervals, because {len(tasks)} task(s) are compared.\n\n"
        f"{markdown_table(lines)}"
    )


def _ceiling(table: Sequence[Row]) -> str:
    found = estimate(spearman, *columns_of(table, FIRST, SECOND))
    if found is None or found.value <= 0:
        return ""
    alone, mean = math.sqrt(found.value), math.sqrt(2 * found.value / (1 + found.value))
    return (
        f"A score without noise can reach about {alone:.2f} there, and {mean:.2f} with the mean of both seeds (Spearman 1910, "
        "Brown 1910). "
    )


def _choices(table: Sequence[Row], pretexts: Sequence[str]) -> str:
    lines = []
    for name, title in {FIRST: "labels, seed 0", **{p: p for p in pretexts}, **SIZES}.items():
        ranked, judged = columns_of(table, name, SECOND)
        above = estimate(advantage, ranked, judged)
        if above is None:
            continue
        best = estimate(judged_choice, ranked, judged)
        assert best is not None  # it is defined wherever its advantage is
        winner = max((r for r in table if r.get(name) is not None and r.get(SECOND) is not None), key=lambda r: r[name])
        lines.append(
            {
                "chosen by": title,
                "architecture": f"{winner['architecture']} ({winner['hash']}; {winner['levels']} levels, width {winner['base_width']})",
                "Dice": f"{best.value:.3f} [{best.low:.3f}, {best.high:.3f}]",
                "above a random one": f"{above.value:+.3f} [{above.low:+.3f}, {above.high:+.3f}]",
            }
        )
    random, *_ = columns_of(table, SECOND)
    mean = estimate(lambda values: values.mean(-1), random) if random else None
    if mean is None or not lines:
        return "\n## The chosen architecture\n\nToo few architectures are done.\n"
    lines.append({"chosen by": "chance", "Dice": f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]", "above a random one": ""})
    return (
        "\n## The chosen architecture\n\nDice with labels in the training of seed 1, which no choice used. Intervals are by "
        "bootstrap over architectures; each resample makes its own choice. The choice with labels has an advantage: another "
        "training used labels of the scans that it is judged on. Chance: the mean of all.\n\n"
        f"{markdown_table(lines)}"
    )


def _details(rows: Sequence[Row]) -> str:
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        line: Row = {"task": task, "cells": len(mine)}
        for name, title in (
            ("train_loss", "mean loss"),
            ("train_dice", "Dice, training scans"),
            ("dice", "Dice, other scans"),
            ("accuracy", "accuracy, other scans"),
        ):
            values = [row[name] for row in mine if row[name] is not None]
            line[title] = f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else ""
        for name, title in (("steps", "steps"), ("cpu_seconds", "processor s"), ("wall_seconds", "wall s")):
            values = [row[name] for row in mine]
            line[title] = f"{min(values):.0f} to {max(values):.0f}"
        lines.append(line)
    return (
        "\n## The cells\n\nMean and range. Processor time covers the steps alone, on their thread, without making batches. "
        f"Wall time covers the whole training, next to other work on the machine.\n\n{markdown_table(lines)}\n"
        f"Machine: {', '.join(sorted({r['machine'] for r in rows}))}. Precision: "
        f"{', '.join(sorted({r['precision'] for r in rows}))}. Code: {', '.join(sorted({r['code'] for r in rows}))}.\n"
    )
