"""The page's part on unlabelled scans: label-free steps before the labelled ones, and label-free tasks in meta-training."""

from __future__ import annotations

from collections.abc import Sequence

from ...report.statistics import Margin
from ...report.tables import markdown_table
from .cells import REFERENCE_STEPS
from .compare import OURS, Row, at, by_organ, cell_mean, difference, matched, whole
from .methods import METHODS
from .settings import BenchmarkSettings
from .tables import bullets, interval, methods_in, num_organs, organ_table, sentence, step_table

#: the method of the goal, and the Dice that it gains at ``GOAL_SHOTS`` scans and equal gradient evaluations
UNLABELLED, GOAL, GOAL_SHOTS = "metanas-unlabelled", 0.03, 1
LONGER = "metanas-longer"
CONTROL = f"{UNLABELLED}-random-labels"

_EQUAL = "equal gradient evaluations"


def label_free_part(rows: Sequence[Row], shots: int, claim: BenchmarkSettings | None) -> list[str]:
    """Return paragraphs and tables that compare the label-free methods in ``rows`` with ours; empty without such methods.

    ``rows`` are those of one number of ``shots``. With ``claim`` the goal is judged.
    """
    mine = [r for r in rows if METHODS[r["method"]].label_free or r["method"] == OURS]
    if methods_in(mine) in ([], [OURS]):
        return []
    parts = [f"#### What unlabelled scans gain, {shots} scan(s)", bullets(_words(mine, shots, claim))]
    parts += [
        f"Dice after {REFERENCE_STEPS} steps with labels, or after the method's time budget:",
        markdown_table(organ_table(mine)),
    ]
    if gains := gain_table(mine):
        parts += [f"Gains over `{OURS}`, with 95 % intervals (draws and cases resampled):", markdown_table(gains)]
    return [*parts, "Dice against steps with labels:", markdown_table(step_table(mine))]


def gains(rows: Sequence[Row], method: str) -> dict[str, Margin | None]:
    """Return the margins of a label-free ``method`` over ours, by what is equal; None where cells are missing.

    Label-free steps count: at equal gradient evaluations ours has the fewest steps with at least as many as ``method`` has in
    total.
    """
    pairs = matched(rows, OURS, REFERENCE_STEPS, method)
    found = {name: difference(*pairs[name]) for name in ("equal steps", _EQUAL)}
    # ours for the total time of the reference's label-free and labelled steps; other methods take another time
    longer = at(rows, LONGER, REFERENCE_STEPS) if method == METHODS[LONGER].reference else []
    found["equal seconds"] = difference(pairs["equal steps"][0], longer)
    return found | {"no step with labels": difference(at(rows, method, 0), at(rows, OURS, 0))}


def gain_table(rows: Sequence[Row]) -> list[Row]:
    """Return a line for each label-free method: how many unlabelled scans it saw, whether these were query scans, its gains."""
    table = []
    for method in methods_in(rows):
        if method in (OURS, LONGER) or not at(rows, method, REFERENCE_STEPS):
            continue
        seen = sorted({int(r.get("unlabelled") or 0) for r in rows if r["method"] == method})
        line: Row = {"method": method, "unlabelled scans": f"{seen[0]} to {seen[-1]}" if len(seen) > 1 else f"{seen[0]}"}
        line["sees the query"] = "yes: transductive" if METHODS[method].unlabelled == "query" else "no"
        table.append(line | {name: interval(margin) for name, margin in gains(rows, method).items()})
    return table


def _words(rows: Sequence[Row], shots: int, claim: BenchmarkSettings | None) -> list[str]:
    lines = []
    for method in methods_in(rows):
        if method in (OURS, LONGER) or METHODS[method].development:
            continue
        found = gains(rows, method)
        what = "Transductive, because it has seen the query scans: " if METHODS[method].unlabelled == "query" else ""
        views = {
            "equal steps": "at equal steps",
            _EQUAL: "at equal gradient evaluations",
            "equal seconds": _time_words(rows, method),
        }
        for name, words in views.items():
            margin = found[name]
            if margin:
                other = LONGER if name == "equal seconds" else OURS
                lines.append(f"{what}{sentence(other, margin, method, num_organs(rows))}, {words}.")
        if method == UNLABELLED and shots == GOAL_SHOTS and claim and UNLABELLED in claim.methods:
            lines.append(_goal(rows, found[_EQUAL], claim))
    return lines + _pretext_words(rows)


def _time_words(rows: Sequence[Row], method: str) -> str:
    """Return the times that are compared. A budget is filled by the measured time of a step, so they differ a little."""
    mine, longer = at(rows, method, REFERENCE_STEPS), at(rows, LONGER, REFERENCE_STEPS)
    both = {(r["dataset"], r["draw"]) for r in mine} & {(r["dataset"], r["draw"]) for r in longer}
    seconds = [[r for r in part if (r["dataset"], r["draw"]) in both] for part in (mine, longer)]
    if not both:
        return "in equal time"
    return "in equal time ({:.1f} s; `{}` took {:.1f})".format(
        cell_mean(seconds[0], "seconds"), LONGER, cell_mean(seconds[1], "seconds")
    )


def _goal(rows: Sequence[Row], margin: Margin | None, claim: BenchmarkSettings) -> str:
    """Return whether the goal is reached. It is judged once both have all organs, draws and seeds of every test data set."""
    theirs, ours = matched(rows, OURS, REFERENCE_STEPS, UNLABELLED)[_EQUAL]
    complete = whole(theirs, UNLABELLED, claim) and whole(ours, OURS, claim) and set(by_organ(theirs)) == set(by_organ(ours))
    state = "not yet judged: cells are missing"
    if margin and complete:
        state = "missed" if margin.mean < GOAL else "reached" if margin.beyond_noise else "reached in the mean, but not confirmed"
    return f"Goal (at {GOAL_SHOTS} shot at least {GOAL:+.2f} from unlabelled scans over `{OURS}` at {_EQUAL}): {state}."


def _pretext_words(rows: Sequence[Row]) -> list[str]:
    """Return the pretext tasks by their gain, and whether the best is better than random labels; empty without an ablation.

    The best task is chosen and judged on the same figures, so its interval is corrected for the number of tasks (Bonferroni).
    """
    names = [m for m in methods_in(rows) if METHODS[m].development]
    found = {m: margin for m in names if (margin := gains(rows, m)["equal steps"])}
    if not found:
        return []
    order = sorted(found, key=lambda m: -found[m].mean)
    listed = ", ".join(f"`{m.removeprefix(f'{UNLABELLED}-')}` {interval(found[m])}" for m in order)
    lines = [f"Pretext tasks by their gain over `{OURS}` at equal steps: {listed}."]
    best = next((m for m in order if m != CONTROL), "")
    others = len(found) - 1
    pair = (at(rows, m, REFERENCE_STEPS) for m in (best, CONTROL))
    margin = difference(*pair, level=1 - 0.05 / others) if best and CONTROL in found else None
    note = f"the best of {others}, with an interval of {100 - 5 / others:.3g} %" if others > 1 else "the only other one"
    return [*lines, f"Against the control, {sentence(CONTROL, margin, best, num_organs(rows))}: {note}."] if margin else lines
