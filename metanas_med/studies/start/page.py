"""The page of the study and its figures, from ``start.csv`` alone."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import write_text
from ...report.figures import curves, panels
from ...report.statistics import Margin
from ...report.tables import markdown_table
from ..grid.published import rows_to_show
from .jobs import FRESH
from .values import Results, typed

#: by number of steps: the gain over fresh weights in the mean over groups that a recipe should reach
GOALS = {20: 0.05, 100: 0.03}
NOT_RUN = "not run"
Row = Mapping[str, Any]


def write_page(out: Path) -> Path:
    """Return the path of ``out``/start.md after writing it, and its figures, from ``out``/start.csv."""
    rows = typed(rows_to_show(out / "start.csv"))
    development = Results([r for r in rows if not r["final"]])
    figures = _figures(out, development)
    write_text(out / "start.md", page(rows, figures))
    return out / "start.md"


def page(rows: Sequence[Row], figures: Sequence[str] = ()) -> str:
    """Return the page's text. ``figures``: file names."""
    development, final = Results([r for r in rows if not r["final"]]), Results([r for r in rows if r["final"]])
    parts = [
        "# Recipes of meta-training at equal wall time\n\n"
        "Written by `metanas-med study start --report` from `start.csv`. Each start adapts to organs that its "
        "meta-training never saw. *Gain*: Dice minus that of fresh weights of the same network, on the same scans."
    ]
    if development.recipes:
        parts += [_goal(development), _recipes(development), *(f"![{_alt(name)}]({name})" for name in figures)]
        parts += [_groups(development)]
        for title, series, key, heading in (
            ("Dice against training time", "time", "core_seconds", "core seconds of training"),
            ("Gain against number of data sets", "sets", "num_sets", "data sets"),
            ("Width", "width", "base_width", "base width"),
        ):
            parts += [f"## {title}\n\n{_series(development, series, key, heading)}"]
    parts += [_final(final), _how(rows), _limits(development if development.recipes else final)]
    return wrapped("\n\n".join(part.rstrip() for part in parts) + "\n")


def _goal(found: Results) -> str:
    """Return the comparison with the goals: which recipes reach all of them."""
    table, reached, judged = [], [], 0
    for name in found.recipes:
        gains = {steps: found.gain(name, steps) for steps in GOALS}
        line: dict[str, Any] = {"recipe": name}
        for steps, goal in GOALS.items():
            gain = gains[steps]
            line[f"{steps} steps: {goal}"] = (
                NOT_RUN if gain is None else f"{'met' if gain.mean >= goal else 'missed'}, {gain.mean:+.3f}"
            )
        table.append(line)
        known = [(gain, GOALS[steps]) for steps, gain in gains.items() if gain is not None]
        if len(known) == len(GOALS):
            judged += 1
            reached += [name] if all(gain.mean >= goal for gain, goal in known) else []
    aim = " and ".join(f"{goal} after {steps} steps" for steps, goal in GOALS.items())
    verdict = (
        f"**Met** by {', '.join(reached)}." if reached else "**Missed** by every recipe." if judged else "**Not judged yet.**"
    )
    return f"## Goal\n\n{verdict} The goal is a mean gain over groups of {aim}.\n\n{markdown_table(table)}"


def _recipes(found: Results) -> str:
    """Return the recipes side by side."""
    starts = [(name, None) for name in found.recipes] + [(FRESH, width) for width in found.widths if found.of(FRESH, width=width)]
    table, unfinished = [], []
    for name, width in starts:
        line: dict[str, Any] = {"recipe": name if width is None else f"fresh weights, base width {width}"}
        for steps in found.steps:
            dice = found.dice(name, steps, width)
            line[f"Dice, {steps}"] = NOT_RUN if dice is None else dice
            if dice is None and found.of(name, steps, width):
                unfinished.append(f"{name} at {steps} steps")
        for steps in found.steps:
            line[f"gain, {steps}"] = None if width else _text(found.gain(name, steps))
        if width is None:
            line |= _facts(found, name)
        table.append(line)
    about = {r["recipe"]: r["about"] for r in found.rows if r["about"]}
    text = "## Recipes\n\nMean over groups after the steps in the heading, with a 95 % interval over data sets.\n\n"
    text += markdown_table(table)
    if about:
        text += "\n" + "".join(f"- `{name}`: {words}.\n" for name, words in about.items())
    if unfinished:
        text += f"\nIncomplete, and therefore not shown: {', '.join(dict.fromkeys(unfinished))}.\n"
    return text


def _facts(found: Results, name: str) -> dict[str, Any]:
    return {
        "iterations": f"{found.fact(name, 'iterations'):.0f}",
        "core seconds": f"{found.fact(name, 'core_seconds'):.0f}",
        "data sets": _span(found.facts(name, "num_sets")),
        "seeds": found.seeds(name),
        "draws": len({row["draw"] for row in found.of(name)}),
    }


def _groups(found: Results) -> str:
    """Return the gains by group."""
    table = []
    for name in found.recipes:
        line: dict[str, Any] = {"recipe": name}
        for group in found.groups:
            for steps in (s for s in found.steps if s):
                gain = found.group_gain(name, steps, group)
                line[f"{_words(group)}, {steps}"] = NOT_RUN if gain is None else f"{gain:+.3f}"
        table.append(line)
    return f"## By group\n\nGain after the steps in the heading.\n\n{markdown_table(table)}"


def _series(found: Results, series: str, key: str, heading: str) -> str:
    """Return the recipes of one series in the order of what it varies."""
    names = _in_series(found, series)
    if not names:
        return "Not run."
    table: list[dict[str, Any]] = []
    if series == "time":  # without any training
        width = found.of(names[0])[0]["base_width"]
        table.append({"recipe": "fresh weights", heading: "0"} | {f"Dice, {s}": found.dice(FRESH, s, width) for s in found.steps})
    for name in sorted(names, key=lambda n: found.fact(n, key)):
        line: dict[str, Any] = {"recipe": name, heading: _span(found.facts(name, key))}
        if series == "width":
            line["weights"] = f"{found.fact(name, 'parameters'):.0f}"
            line["iterations"] = f"{found.fact(name, 'iterations'):.0f}"
        for steps in found.steps:
            dice = found.dice(name, steps)
            line[f"Dice, {steps}"] = NOT_RUN if dice is None else dice
        for steps in found.steps:
            line[f"gain, {steps}"] = _text(found.gain(name, steps))
        table.append(line)
    note = "\nOnly one of these recipes has been run.\n" if len(names) == 1 else ""
    return markdown_table(table) + note


def _in_series(found: Results, series: str) -> list[str]:
    return list(dict.fromkeys(r["recipe"] for r in found.rows if series in r["series"].split()))


def _final(found: Results) -> str:
    """Return the results on the folds that chose nothing."""
    if not found.recipes:
        return "## Organs that chose nothing\n\nNot run."
    words = [_words(group) for group in found.groups]
    names = ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else words[0]
    return f"## Organs that chose nothing\n\nHeld out and run once, at the end: {names}.\n\n" + "\n".join(
        text.split("\n\n", 1)[1] for text in (_recipes(found), _groups(found))
    )


def _how(rows: Sequence[Row]) -> str:
    """Return how the rows were made."""
    adapted = ", ".join(f"{n} draws for {s} steps" if n > 1 else f"one draw for {s} steps" for s, n in _draws(rows).items())
    shots = sorted({r["shots"] for r in rows})
    seconds = [
        f"{s} steps {_mean([r['seconds'] for r in rows if r['steps'] == s]):.0f} s"
        for s in sorted({r["steps"] for r in rows})
        if s
    ]
    return (
        "## How it was measured\n\n"
        "```\nmetanas-med study start --cache CACHE --out runs/start\n"
        "metanas-med study start --cache CACHE --out runs/start --final\n"
        "metanas-med study start --report --out docs/results\n```\n\n"
        "- A training has one thread and takes as many iterations as fit into its time on an undisturbed core, by measured "
        "seconds of an iteration (`paces` in configs/start.yaml). So other jobs of the machine change no result. "
        "*Core seconds* are processor time.\n"
        "- A start adapts with the default settings of `adapt`, from the same supports for all starts.\n"
        f"- Supports: {_span(shots)} scans, {adapted}. Scored scans of other patients, all "
        f"organs: {_span(sorted({r['num_query'] for r in rows}))}.\n"
        f"- Time of an adaptation: {', '.join(seconds) or 'none was run'}.\n"
        "- *fresh*: new weights in the network of the first recipe of that width in that fold, with its architecture.\n"
        f"- Processor: {_list(rows, 'machine')}. Code of the trainings: {_list(rows, 'meta_code')}. "
        f"Code of the adaptations: {_list(rows, 'code')}. Settings of the adaptation: {_list(rows, 'settings')}."
    )


def _limits(found: Results) -> str:
    several = [name for name in found.recipes if found.seeds(name) > 1]
    seeds = f"Two seeds or more: {', '.join(several)}; all others have one." if several else "Every recipe has one seed."
    datasets = len({r["dataset"] for r in found.rows})
    return (
        f"## Limits\n\n- {seeds} Intervals do not cover variance between seeds of meta-training.\n"
        f"- Intervals resample {datasets} data sets of {len(found.groups)} groups. Organs of one group resemble each other, "
        "so intervals are too narrow.\n"
        "- The best of several recipes looks better than it is. The organs that chose nothing do not have this bias.\n"
        "- What a recipe learns in its time depends on the machine. Iterations are in the table.\n"
    )


def _figures(out: Path, found: Results) -> list[str]:
    """Return the names of the figures written to ``out``."""
    if not found.recipes:
        return []
    groups = {"all groups": [_gain_line(found, steps, None) for steps in found.steps]}
    groups |= {_words(group): [_gain_line(found, steps, group) for steps in found.steps] for group in found.groups}
    panels(
        out / "start.png", groups, "steps", found.recipes, "Dice minus that of fresh weights, after 0 and more steps", linear=20
    )
    names = ["start.png"]
    if len(timed := _in_series(found, "time")) > 1:
        points = [
            {"core seconds of training": found.fact(name, "core_seconds")}
            | {f"{s} steps": found.dice(name, s) for s in found.steps}
            for name in sorted(timed, key=lambda n: found.fact(n, "core_seconds"))
        ]
        curves(
            out / "start_time.png",
            points,
            "core seconds of training",
            [f"{s} steps" for s in found.steps],
            "Dice against training time",
        )
        names.append("start_time.png")
    return names


def _gain_line(found: Results, steps: int, group: str | None) -> dict[str, Any]:
    def value(name: str) -> float | None:
        if group is not None:
            return found.group_gain(name, steps, group)
        gain = found.gain(name, steps)
        return None if gain is None else gain.mean

    return {"steps": steps} | {name: value(name) for name in found.recipes}


def _alt(name: str) -> str:
    return "Dice against training time" if "time" in name else "Gain over fresh weights by group and steps"


def _text(gain: Margin | None) -> str:
    return NOT_RUN if gain is None else f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def wrapped(text: str) -> str:
    """Return the text with prose in lines of at most 120 characters; tables, code and figures keep their lines."""
    lines, code = list[str](), False
    for line in text.splitlines():
        code ^= line.startswith("```")
        kept = code or not line or line.startswith(("|", "!", "```"))
        indent = "  " if line.startswith("- ") else ""
        lines += (
            [line] if kept else textwrap.wrap(line, 120, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
        )
    return "\n".join(lines) + "\n"


def _words(group: str) -> str:
    return group.replace("_", " ")


def _draws(rows: Sequence[Row]) -> dict[int, int]:
    """Return the number of draws by number of steps."""
    return {steps: len({r["draw"] for r in rows if r["steps"] == steps}) for steps in sorted({r["steps"] for r in rows})}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _span(values: Sequence[float]) -> str:
    """Return the first and last of sorted numbers, rounded, as text."""
    first, last = (f"{values[n]:.0f}" for n in (0, -1))
    return first if first == last else f"{first} to {last}"


def _list(rows: Sequence[Row], key: str) -> str:
    return ", ".join(sorted({str(r[key]) for r in rows if r[key]})) or "not noted"
