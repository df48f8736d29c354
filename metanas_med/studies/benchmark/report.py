"""The page of the benchmark: tables, figures and sentences from ``results.csv`` and ``meta.csv`` alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from ...files import csv_path, read_csv, write_text
from ...report.tables import markdown_table
from .cells import REFERENCE_STEPS, Cell, grid
from .compare import OURS, Row, devices, done_of, read_results
from .figures import write_figures, write_shots_figure
from .methods import METHODS
from .pretrain import META_COLUMNS
from .report_label_free import label_free_part
from .sentences import sentences_of
from .settings import BenchmarkSettings
from .tables import (
    MISSED,
    bullets,
    margin_table,
    methods_in,
    organ_table,
    progress_table,
    step_table,
)


def write_report(folder: Path, settings: BenchmarkSettings, dropped: Mapping[str, str] | None = None) -> Path:
    """Return the path of ``benchmark.md`` after writing it and its figures from ``results.csv`` in ``folder``, compressed or not.

    ``settings`` are those of the configuration file: they define the planned cells, without the ``dropped`` methods.
    """
    source, left_out = csv_path(folder / "results.csv"), dropped or {}
    rows = read_results(source)
    settings = settings.model_copy(update={"methods": tuple(m for m in settings.methods if m not in left_out)})
    parts = [_head(source, rows, settings, left_out)]
    for development in (False, True):
        mine = [r for r in rows if bool(r["development"]) == development]
        if mine:
            parts += _part(folder, mine, settings, left_out, development)
    if (folder / "meta.csv").exists():
        parts += _meta_part(folder / "meta.csv")
    path = folder / "benchmark.md"
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _head(source: Path, rows: Sequence[Row], settings: BenchmarkSettings, dropped: Mapping[str, str]) -> str:
    planned = grid(settings)
    done = done_of(planned, rows)
    state = "complete" if len(done) == len(planned) else f"**unfinished: {len(done)} of {len(planned)} cells**"
    test = {g.name for g in settings.groups if not g.development}
    tested = [c for c in planned if c.group in test]
    if len(done) < len(planned) and 0 < len(tested) < len(planned):
        state += f", of which test groups, the basis of all claims, have {sum(c in done for c in tested)} of {len(tested)}"
    text = (
        f"# Few-shot benchmark\n\nWritten by `metanas-med study benchmark` (the page alone: `--report`) from `{source.name}`, "
        "one row for each cell, case and organ. Scores are of whole volumes in their own geometry. Supports and queries come "
        "from different patients (from different files where patients are unknown). Every group is held out of meta-training, "
        "with all related data sets.\n\n"
        f"The grid is {state}. Code: {', '.join(sorted({r['code'] for r in rows}))}."
    )
    text += "".join(f"\n\n{words}" for words in (settings.notes.strip(),) if words)
    text += f"\n\n{_interval_words(rows)}"
    if len(done) < len(planned):
        text += f"\n\n{_progress(tested, done)}".rstrip()
    if dropped:
        text += "\n\nLeft out: " + "; ".join(f"`{name}` ({why})" for name, why in dropped.items()) + "."
    table = []
    for name in methods_in(rows):
        mine = [r for r in rows if r["method"] == name]
        table.append({"method": name, "what it is": METHODS[name].about, "device": devices(mine)})
    return text + "\n\n" + markdown_table(table)


def _meta_part(path: Path) -> list[str]:
    """Return the table of meta-trainings."""
    rows = read_csv(path)
    note = "From `meta.csv`. Where a run was stopped and resumed, *processor seconds* cover the last part alone."
    return ["## Meta-trainings", note, markdown_table(rows, {name: name.replace("_", " ") for name in META_COLUMNS})]


def _interval_words(rows: Sequence[Row]) -> str:
    """Return what the intervals do not cover, and how many meta-trainings each method has."""
    words = "Intervals resample draws and cases. They do not cover variance between meta-trainings"
    counts = []
    for method in methods_in(rows):
        states: dict[str, set[tuple[int, str]]] = defaultdict(set)
        for r in rows:
            if r["method"] == method and METHODS[method].pretraining:
                states[r["held_out"]].add((r["seed"], r["checkpoint"]))  # a seed of another run has its own meta-training
        numbers = sorted({len(found) for found in states.values()})
        if numbers:
            counts.append(f"`{method}` {' to '.join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1])))}")
    return f"{words}. Meta-trainings a group: {', '.join(counts)}." if counts else f"{words}."


def _progress(tested: Sequence[Cell], done: Container[Cell]) -> str:
    """Return the progress of the test groups as a table, and the methods without any cell; empty without test groups."""
    table, absent = progress_table(tested, done)
    if not table:
        return ""
    text = f"Cells of the test groups, done / planned (all labels at once, and single organs):\n\n{markdown_table(table)}"
    return text + (f"\nWithout any cell yet: {', '.join(f'`{name}`' for name in absent)}." if absent else "")


def _part(
    folder: Path, rows: Sequence[Row], settings: BenchmarkSettings, left_out: Mapping[str, str], development: bool
) -> list[str]:
    kind = "development" if development else "test"
    parts = [f"## {'Development groups: settings were chosen on these' if development else 'Test groups'}"]
    together = [r for r in rows if r["target"] == "all"]
    for shots in settings.shots:
        mine = [r for r in together if r["shots"] == shots]
        if not mine:
            continue
        full = [r for r in mine if not METHODS[r["method"]].plain]
        main = [r for r in full if not METHODS[r["method"]].label_free]
        parts += [f"### {shots} scan(s)", bullets(sentences_of(main, shots, None if development else settings, tuple(left_out)))]
        parts.append(
            f"Dice after {REFERENCE_STEPS} steps, or after the method's time budget; mean over cases, draws and seeds "
            f"(*missed*: Dice below {MISSED}):"
        )
        parts.append(markdown_table(organ_table(main)))
        if margins := margin_table(main):
            parts.append(f"Margins of `{OURS}` after {REFERENCE_STEPS} steps, with 95 % intervals (draws and cases resampled):")
            parts.append(markdown_table(margins))
        parts.append("Dice against steps, on the draws and cases that all numbers of steps have in common:")
        parts.append(markdown_table(step_table(main)))
        plain = [r for r in mine if METHODS[r["method"]].plain or r["method"] == OURS]
        if len(methods_in(plain)) > 1:
            parts += ["Other methods as they were published, without our improvements:", markdown_table(organ_table(plain))]
        parts += label_free_part(full, shots, None if development else settings)
        figures = write_figures(folder, f"benchmark_{kind}_{shots}shot", full, f"{kind} groups, {shots} scan(s)")
        parts += [f"![Dice by {what}]({name})" for what, name in figures.items()]
    if len({r["shots"] for r in together}) > 1:
        name = f"benchmark_{kind}_shots.png"
        main = [r for r in together if not METHODS[r["method"]].plain]
        write_shots_figure(folder / name, main, f"{kind} groups, {REFERENCE_STEPS} steps")
        parts.append(f"![Dice by scans]({name})")
    single = [r for r in rows if r["target"] != "all"]
    for shots in settings.shots:
        mine = [r for r in single if r["shots"] == shots]
        if mine:
            parts += [
                f"### Each organ separately, {shots} scan(s)",
                markdown_table(organ_table(mine)),
                markdown_table(margin_table(mine)),
            ]
    return parts
