"""The page of the benchmark: tables, figures and sentences from ``results.csv`` and ``meta.csv`` alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from ...files import csv_path, read_csv, write_text
from ...report.statistics import Margin, mean_ranks
from ...report.tables import markdown_table
from .cells import REFERENCE_STEPS, Cell, grid
from .compare import OURS, Row, at, by_organ, cell_mean, devices, difference, done_of, matched, read_results, same_devices, whole
from .figures import write_figures, write_shots_figure
from .methods import METHODS
from .pretrain import META_COLUMNS
from .report_label_free import label_free_part
from .settings import BenchmarkSettings
from .tables import (
    MISSED,
    bullets,
    complete,
    margin_table,
    methods_in,
    num_organs,
    organ_table,
    progress_table,
    sentence,
    step_table,
)

#: goal by shots: Dice by which ours leads every other method at equal gradient evaluations
GOALS = {5: 0.03, 1: 0.05}
#: our method with the time of ten adaptations
LONG = f"{OURS}-10x"
#: goal: the share of nnU-Net's time that ours may take
NNUNET_SHARE = 1 / 50


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
        "# Few-shot benchmark\n\nWritten by `metanas-med study benchmark` (the page alone: `--report`) "
        f"from `{source.name}`, one row for each cell, case and organ. "
        "Scores are of whole volumes in their own geometry. Supports and queries come from different patients (from different "
        "files where "
        "patients are unknown). Every group is held out of meta-training, with all related data sets.\n\n"
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
        parts += [f"### {shots} scan(s)", bullets(_words(main, shots, None if development else settings, tuple(left_out)))]
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


def _rank_words(rows: Sequence[Row]) -> list[str]:
    """Return the methods by their mean rank over organs, where two or more can be ranked."""
    means, keys, full = complete(rows)
    if len(full) < 2:
        return []
    ranks = sorted(mean_ranks(full).items(), key=lambda item: item[1])
    left = ", ".join(f"`{name}`" for name in means if name not in full)
    words = f"Mean rank over {len(keys)} organ(s): {', '.join(f'`{name}` {rank:.1f}' for name, rank in ranks)}."
    return [f"{words} Not ranked, because they have fewer organs or draws: {left}." if left else words]


def _words(rows: Sequence[Row], shots: int, claim: BenchmarkSettings | None, left_out: Sequence[str] = ()) -> list[str]:
    """Return which method wins, by how much, and whether that is beyond noise; with ``claim``, also which of its goals are reached.

    ``left_out``: methods that the claim does not cover.
    """
    ours = at(rows, OURS, REFERENCE_STEPS)
    if not ours:
        return [f"`{OURS}` has no cell here yet."]
    lines, organs = [], num_organs(rows)
    rivals = [m for m in methods_in(rows) if m != OURS and not METHODS[m].timed]
    for name in ("equal gradient evaluations", "equal seconds"):
        margins = {m: margin for m in rivals if (margin := difference(*matched(rows, m, REFERENCE_STEPS)[name]))}
        if margins:
            # a mean over fewer organs is not comparable
            full = [m for m in margins if margins[m].organs == max(other.organs for other in margins.values())]
            strongest = min(full, key=lambda m: margins[m].mean)
            lines.append(f"At {name}, {sentence(strongest, margins[strongest], organs=organs)}, the strongest other method here.")
        if name == "equal gradient evaluations" and shots in GOALS and claim and _rivals(claim.methods):
            lines.append(_goal(rows, margins, claim, GOALS[shots], _rivals(left_out)))
    for other in (f"{OURS}-frozen", f"{OURS}-random"):
        margin = difference(ours, at(rows, other, REFERENCE_STEPS))
        if margin:
            lines.append(f"Adapting alpha: {sentence(other, margin, organs=organs)}, at equal steps.")
    lines += _architecture_words(rows) + _long_words(rows)
    lines += _cost_words(rows) + _nnunet_words(rows) + _rank_words(rows)
    return lines + _worst_words(rows)


def _worst_words(rows: Sequence[Row]) -> list[str]:
    """Return the organs on which ours is below every other ranked method; empty where ours cannot be ranked."""
    _, keys, full = complete(rows)
    if OURS not in full or len(full) < 2:
        return []
    worst = [key[1] for place, key in enumerate(keys) if full[OURS][place] < min(v[place] for m, v in full.items() if m != OURS)]
    return [
        f"Organs on which `{OURS}` is the worst ranked method: {', '.join(sorted(worst))}."
        if worst
        else f"`{OURS}` is never the worst ranked method."
    ]


def _rivals(names: Sequence[str]) -> list[str]:
    """Return the methods that the claim compares with."""
    return [m for m in names if m != OURS and not (METHODS[m].timed or METHODS[m].plain or METHODS[m].label_free)]


def _goal(
    rows: Sequence[Row], margins: Mapping[str, Margin], claim: BenchmarkSettings, goal: float, left_out: Sequence[str]
) -> str:
    """Return whether the goal is reached. It is judged once every method of the claim has all organs, draws and seeds of all test data sets."""
    ours = at(rows, OURS, REFERENCE_STEPS)
    missing = [] if whole(ours, OURS, claim) else [OURS]
    for method in _rivals(claim.methods):
        _, other = matched(rows, method, REFERENCE_STEPS)["equal gradient evaluations"]
        if set(by_organ(other)) != set(by_organ(ours)) or not whole(other, method, claim):
            missing.append(method)
    reached = [m for m, margin in margins.items() if margin.mean >= goal]
    count = f"reached against {len(reached)} of {len(margins)}"
    if missing or not margins:
        state = "not yet judged"
    else:
        state = "reached" if len(reached) == len(margins) else f"missed: {count}"
        unsure = [m for m in reached if not margins[m].beyond_noise] if state == "reached" else []
        state += f" in the mean, but not confirmed against {', '.join(f'`{m}`' for m in unsure)}" if unsure else ""
    notes = [f"cells are missing: {', '.join(missing)}", *([f"so far {count}"] if margins else [])] if missing else []
    notes += [f"left out: {', '.join(left_out)}"] if left_out else []
    note = f" ({'; '.join(notes)})" if notes else ""
    return f"Goal (at least {goal:+.2f} over every other method at equal gradient evaluations): {state}{note}."


def _architecture_words(rows: Sequence[Row]) -> list[str]:
    """Return in how many cells adapting alpha changed the architecture; empty where that is not known."""
    keys = ("held_out", "dataset", "target", "shots", "draw", "seed")
    ours, kept = (
        {tuple(r[k] for k in keys): found for r in at(rows, m, REFERENCE_STEPS) if (found := r.get("architecture"))}
        for m in (OURS, f"{OURS}-frozen")
    )
    both = set(ours) & set(kept)
    if not both:
        return []
    moved = sum(ours[key] != kept[key] for key in both)
    return [f"Adapting alpha changed the architecture in {moved} of {len(both)} cells."]


def _long_words(rows: Sequence[Row]) -> list[str]:
    """Return the margins of the meta-learned start over the other methods with the time of ten adaptations."""
    lines, organs = [], num_organs(rows)
    ours, times = at(rows, LONG, REFERENCE_STEPS), METHODS[LONG].times
    for method in (m for m in methods_in(rows) if METHODS[m].times == times and m != LONG):
        if margin := difference(*same_devices(ours, at(rows, method, REFERENCE_STEPS))):
            lines.append(f"In the time of ten adaptations, {sentence(method, margin, ours=LONG, organs=organs)}.")
    return lines


def _cost_words(rows: Sequence[Row]) -> list[str]:
    """Return the cost of the found networks relative to the fixed U-Net."""
    ours, fixed = at(rows, OURS, REFERENCE_STEPS), at(rows, "reptile", REFERENCE_STEPS)
    margin = difference(ours, fixed)
    if not margin:
        return []
    share = cell_mean(ours, "multiply_adds") / cell_mean(fixed, "multiply_adds")
    words = sentence("reptile", margin, organs=num_organs(rows))
    return [f"The found networks cost {share:.2f} times the multiply-adds of the fixed U-Net; {words}."]


def _share_words(ours: Sequence[Row], other: Sequence[Row], goal: bool) -> str:
    """Return the share of the other method's time that ours takes, and whether it reaches the goal; no share where devices differ."""
    if devices(ours) != devices(other):
        return f"on other devices ({devices(ours)}; {devices(other)}), so times are not compared"
    share = cell_mean(ours, "seconds") / cell_mean(other, "seconds")
    within = "within" if share <= NNUNET_SHARE else "over"
    return f"in 1/{1 / share:.0f} of its time" + (f" ({within} the goal of 1/{1 / NNUNET_SHARE:.0f})" if goal else "")


def _nnunet_words(rows: Sequence[Row]) -> list[str]:
    lines = []
    for method in (m for m in methods_in(rows) if m.startswith("nnunet")):
        ours, other = at(rows, OURS, REFERENCE_STEPS), at(rows, method, REFERENCE_STEPS)
        margin = difference(ours, other)
        if margin:
            both = {(r["dataset"], r["draw"], r["seed"]) for r in ours} & {(r["dataset"], r["draw"], r["seed"]) for r in other}
            ours, other = ([r for r in part if (r["dataset"], r["draw"], r["seed"]) in both] for part in (ours, other))
            words = _share_words(ours, other, bool(METHODS[method].minutes))
            lines.append(f"{sentence(method, margin, organs=num_organs(rows))}, {words}.")
    return lines
