"""Tables, figures and words of the benchmark, from ``results.csv`` and, of its meta-trainings, ``meta.csv`` alone."""

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
from .tables import MISSED, complete, margin_table, methods_in, num_organs, organ_table, progress_table, sentence, step_table

#: Dice by which ours is to lead every other method at equal gradient evaluations, by shots
GOALS = {5: 0.03, 1: 0.05}
#: our method that has the time of ten adaptations
LONG = f"{OURS}-10x"
#: share of nnU-Net's time that ours may take
NNUNET_SHARE = 1 / 50


def write_report(folder: Path, settings: BenchmarkSettings, dropped: Mapping[str, str] | None = None) -> Path:
    """Return the path of ``benchmark.md`` after writing it and its figures from ``results.csv`` in ``folder``, compressed or not.

    ``settings`` are those of the configuration file: its cells are the planned ones, but for those of the ``dropped`` methods.
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
        state += f", {sum(c in done for c in tested)} of {len(tested)} of the test groups, on which all claims rest"
    text = (
        "# Few-shot benchmark\n\nMade by `metanas-med benchmark` (tables alone: `--report`) "
        f"from `{source.name}`, a row a cell, case and organ. "
        "Whole volumes, own geometry; supports and queries are of different patients (of different files where the patients are not known); "
        "every group is held out of meta-training with all that is related to it.\n\n"
        f"The grid is {state}. Code: {', '.join(sorted({r['code'] for r in rows}))}."
    )
    text += "".join(f"\n\n{words}" for words in (settings.notes.strip(),) if words)
    text += f"\n\n{_luck_words(rows)}"
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
    note = "`meta.csv`. *Processor seconds* are those of the last part alone where a run was stopped and resumed."
    return ["## Meta-trainings", note, markdown_table(rows, {name: name.replace("_", " ") for name in META_COLUMNS})]


def _luck_words(rows: Sequence[Row]) -> str:
    """Return what intervals do not hold: the luck of meta-training, and how often a group was meta-trained for each method."""
    words = "Intervals resample draws and cases. The luck of meta-training is not in them"
    counts = []
    for method in methods_in(rows):
        states: dict[str, set[tuple[int, str]]] = defaultdict(set)
        for r in rows:
            if r["method"] == method and METHODS[method].pretraining:
                states[r["held_out"]].add((r["seed"], r["checkpoint"]))  # a seed of another run's cells was meta-trained anew
        numbers = sorted({len(found) for found in states.values()})
        if numbers:
            counts.append(f"`{method}` {' to '.join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1])))}")
    return f"{words}; meta-trainings a group: {', '.join(counts)}." if counts else f"{words}."


def _progress(tested: Sequence[Cell], done: Container[Cell]) -> str:
    """Return how far the test groups are, as a table and, of methods that have no cell at all, in words; nothing without such groups."""
    table, absent = progress_table(tested, done)
    if not table:
        return ""
    text = f"Cells of the test groups, done / planned (all labels at once, and single organs):\n\n{markdown_table(table)}"
    return text + (f"\nNothing is there yet of {', '.join(f'`{name}`' for name in absent)}." if absent else "")


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
        parts += [f"### {shots} scan(s)", " ".join(_words(main, shots, None if development else settings, tuple(left_out)))]
        parts.append(
            f"Dice after {REFERENCE_STEPS} steps, or after the time that a method has; mean over cases, draws and seeds "
            f"(*missed*: Dice below {MISSED}):"
        )
        parts.append(markdown_table(organ_table(main)))
        if margins := margin_table(main):
            parts.append(f"Margins of `{OURS}` after {REFERENCE_STEPS} steps, with 95 % intervals (draws and cases resampled):")
            parts.append(markdown_table(margins))
        parts.append("Dice against steps, on the draws and cases that all numbers of steps share:")
        parts.append(markdown_table(step_table(main)))
        plain = [r for r in mine if METHODS[r["method"]].plain or r["method"] == OURS]
        if len(methods_in(plain)) > 1:
            parts += ["Beside the others as they were published:", markdown_table(organ_table(plain))]
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
                f"### Each organ by itself, {shots} scan(s)",
                markdown_table(organ_table(mine)),
                markdown_table(margin_table(mine)),
            ]
    return parts


def _rank_words(rows: Sequence[Row]) -> list[str]:
    """Return the methods in the order of their mean rank over organs, where two or more can be ranked."""
    means, keys, full = complete(rows)
    if len(full) < 2:
        return []
    ranks = sorted(mean_ranks(full).items(), key=lambda item: item[1])
    left = ", ".join(f"`{name}`" for name in means if name not in full)
    words = f"Mean rank over {len(keys)} organ(s): {', '.join(f'`{name}` {rank:.1f}' for name, rank in ranks)}."
    return [f"{words} Not ranked, for fewer organs or draws: {left}." if left else words]


def _words(rows: Sequence[Row], shots: int, claim: BenchmarkSettings | None, left_out: Sequence[str] = ()) -> list[str]:
    """Return who wins, by how much, whether that is more than noise; where ``claim`` is given, which of its goals are reached.

    ``left_out``: methods that the claim does without.
    """
    ours = at(rows, OURS, REFERENCE_STEPS)
    if not ours:
        return [f"`{OURS}` has no cell here yet."]
    lines, organs = [], num_organs(rows)
    rivals = [m for m in methods_in(rows) if m != OURS and not METHODS[m].timed]
    for name in ("equal gradient evaluations", "equal seconds"):
        margins = {m: margin for m in rivals if (margin := difference(*matched(rows, m, REFERENCE_STEPS)[name]))}
        if margins:
            # of fewer organs it is another mean
            full = [m for m in margins if margins[m].organs == max(other.organs for other in margins.values())]
            strongest = min(full, key=lambda m: margins[m].mean)
            lines.append(f"At {name} {sentence(strongest, margins[strongest], organs=organs)}, the strongest other method here.")
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
    """Return the organs on which ours is below every other method, of those that can be ranked; nothing where ours cannot be."""
    _, keys, full = complete(rows)
    if OURS not in full or len(full) < 2:
        return []
    worst = [key[1] for place, key in enumerate(keys) if full[OURS][place] < min(v[place] for m, v in full.items() if m != OURS)]
    return [f"Worst of all that can be ranked on: {', '.join(sorted(worst)) if worst else 'no organ'}."]


def _rivals(names: Sequence[str]) -> list[str]:
    """Return the methods over which the claim is made."""
    return [m for m in names if m != OURS and not (METHODS[m].timed or METHODS[m].plain or METHODS[m].label_free)]


def _goal(
    rows: Sequence[Row], margins: Mapping[str, Margin], claim: BenchmarkSettings, goal: float, left_out: Sequence[str]
) -> str:
    """Return whether the goal is reached; it is judged when every method of the claim has all organs, draws and seeds of every test data set."""
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
        state += f" in the mean, but not certain against {', '.join(f'`{m}`' for m in unsure)}" if unsure else ""
    notes = [f"cells are missing: {', '.join(missing)}", *([f"so far {count}"] if margins else [])] if missing else []
    notes += [f"left out: {', '.join(left_out)}"] if left_out else []
    told = f" ({'; '.join(notes)})" if notes else ""
    return f"Goal (at least {goal:+.2f} over every other method at equal gradient evaluations): {state}{told}."


def _architecture_words(rows: Sequence[Row]) -> list[str]:
    """Return in how many cells adapting alpha ended with another network than keeping it; nothing where that is not known of any."""
    keys = ("held_out", "dataset", "target", "shots", "draw", "seed")
    ours, kept = (
        {tuple(r[k] for k in keys): found for r in at(rows, m, REFERENCE_STEPS) if (found := r.get("architecture"))}
        for m in (OURS, f"{OURS}-frozen")
    )
    both = set(ours) & set(kept)
    if not both:
        return []
    moved = sum(ours[key] != kept[key] for key in both)
    return [f"It ended with another architecture than `{OURS}-frozen` in {moved} of {len(both)} cells."]


def _long_words(rows: Sequence[Row]) -> list[str]:
    """Return what the meta-learned start is worth in the time of ten adaptations, against what else has that time."""
    lines, organs = [], num_organs(rows)
    ours, times = at(rows, LONG, REFERENCE_STEPS), METHODS[LONG].times
    for method in (m for m in methods_in(rows) if METHODS[m].times == times and m != LONG):
        if margin := difference(*same_devices(ours, at(rows, method, REFERENCE_STEPS))):
            lines.append(f"In the time of ten adaptations {sentence(method, margin, ours=LONG, organs=organs)}.")
    return lines


def _cost_words(rows: Sequence[Row]) -> list[str]:
    """Return how the found networks compare to the fixed U-Net by cost."""
    ours, fixed = at(rows, OURS, REFERENCE_STEPS), at(rows, "reptile", REFERENCE_STEPS)
    margin = difference(ours, fixed)
    if not margin:
        return []
    share = cell_mean(ours, "multiply_adds") / cell_mean(fixed, "multiply_adds")
    words = sentence("reptile", margin, organs=num_organs(rows))
    return [f"The found networks cost {share:.2f} times the multiply-adds of the fixed U-Net; {words}."]


def _share_words(ours: Sequence[Row], other: Sequence[Row], goal: bool) -> str:
    """Return what share of the other's time ours takes, and whether it is within the goal; where devices differ, that it cannot be said."""
    if devices(ours) != devices(other):
        return f"on other devices ({devices(ours)}; {devices(other)}), so times are not compared"
    share = cell_mean(ours, "seconds") / cell_mean(other, "seconds")
    within = "within" if share <= NNUNET_SHARE else "over"
    return f"in 1/{1 / share:.0f} of its time" + (f" ({within} the fiftieth that is the goal)" if goal else "")


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
