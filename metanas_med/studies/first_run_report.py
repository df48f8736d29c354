"""Tables and words of the first run, from its CSV alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_csv, write_text
from ..report.figures import curves
from ..report.tables import markdown_table
from .first_run_settings import FirstRunSettings

Row = dict[str, Any]


def write_report(folder: Path, settings: FirstRunSettings, num_planned: int) -> Path:
    """Return the path of ``first_run.md`` after writing it, and a figure a group, from ``folder/first_run.csv``."""
    rows: list[Row] = [
        {**r, "dice": float(r["dice"]), "steps": int(r["steps"]), "shots": int(r["shots"])}
        for r in read_csv(folder / "first_run.csv")
    ]
    parts = [_head(rows, settings, num_planned)]
    for group in sorted({r["held_out"] for r in rows}):
        mine = [r for r in rows if r["held_out"] == group]
        parts.append(f"\n## Held out: {group}\n")
        for shots in sorted({r["shots"] for r in mine}, reverse=True):
            table = _table([r for r in mine if r["shots"] == shots], name_devices=len(_devices(rows)) > 1)
            parts.append(
                f"\n### {shots} scan(s)\n\nMean Dice over query cases, labels and draws; in brackets the lowest and highest draw.\n\n"
                f"{markdown_table(table)}\n"
            )
        parts.append(f"\n![Dice against steps](first_run_{group}.png)\n")
        _figure(folder / f"first_run_{group}.png", mine, group)
    parts.append(_verdict(rows))
    parts.append(_details(rows))
    path = folder / "first_run.md"
    write_text(path, "".join(parts))
    return path


def _head(rows: Sequence[Row], settings: FirstRunSettings, num_planned: int) -> str:
    codes = sorted({r["code"] for r in rows})
    scans, draws = " and ".join(map(str, sorted({r["shots"] for r in rows}))), len({r["draw"] for r in rows})
    done = len({(r["held_out"], r["organ"], r["method"], r["shots"], r["steps"], r["draw"]) for r in rows})
    state = (
        "complete"
        if done == num_planned
        else f"**unfinished: {done} of {num_planned} cells**; the same command goes on with the rest"
    )
    return (
        "# The first real run\n\nMade by `metanas-med first-run --config first_run` (tables alone: `--report`) from `first_run.csv`; each row there "
        "names code revision, seed, hashed support cases and checkpoint.\n\n"
        f"Meta-training leaves a group and everything related to it out; then its organs are adapted from {scans} scan(s), {draws} draw(s) each. "
        "The query cases were fixed first, supports come from other patients (from other files where the patients are not known: hippocampus); "
        "whole volumes, own geometry. *scratch*: the architecture that the search found "
        "for the same scans, from fresh weights, with the same closed-form head start, the same batches and rates. Nothing was tuned on these "
        f"organs but for what is said here.\n\n{settings.notes.strip()}\n\nThe grid is {state}.\n\n"
        f"Code: {', '.join(codes)}. Adapted on: {', '.join(_devices(rows))}.\n"
    )


def _devices(rows: Sequence[Row]) -> list[str]:
    """Return the kinds of device that rows come from; an early row names none."""
    return sorted({r.get("device") or "cpu" for r in rows})


def _by_draw(rows: Sequence[Row], **wanted: Any) -> dict[str, float]:
    """Return the mean Dice by draw of the rows that match."""
    draws: dict[str, list[float]] = defaultdict(list)
    for r in rows:
        if all(r[k] == v for k, v in wanted.items()):
            draws[r["draw"]].append(r["dice"])
    return {d: float(np.mean(v)) for d, v in sorted(draws.items())}


def _cell(values: dict[str, float]) -> str:
    if not values:
        return ""
    numbers = list(values.values())
    return f"{np.mean(numbers):.3f} [{min(numbers):.3f}, {max(numbers):.3f}]"


def _table(rows: Sequence[Row], name_devices: bool) -> list[Row]:
    """Return a line for each method and number of steps; ``name_devices``: seconds say of what."""
    organs = sorted({r["organ"] for r in rows})
    places = sorted({(r["method"], r["steps"]) for r in rows}, key=lambda p: (p[0].startswith("scratch"), p[0], p[1]))
    table = []
    for method, steps in places:
        line: Row = {"method": method, "steps": steps}
        for organ in organs:
            line[organ] = _cell(_by_draw(rows, method=method, steps=steps, organ=organ))
        # a cell that adapts several organs at once has a row of each, and one time
        mine = [r for r in rows if r["method"] == method and r["steps"] == steps]
        seconds = {(r["dataset"], r["organ"], r["shots"], r["draw"], r["seed"]): float(r["seconds"]) for r in mine}
        where = f" ({', '.join(_devices(mine))})" if name_devices else ""
        line["seconds"] = f"{np.mean(list(seconds.values())):.1f}{where}"
        table.append(line)
    return table


def _figure(path: Path, rows: Sequence[Row], group: str) -> None:
    most = max(r["shots"] for r in rows)
    rows = [r for r in rows if r["shots"] == most]
    lines: dict[int, Row] = {}
    for method in ("metanas", "scratch"):
        for steps in sorted({r["steps"] for r in rows if r["method"] == method}):
            values = _by_draw(rows, method=method, steps=steps)
            lines.setdefault(steps, {"steps": steps})[method] = float(np.mean(list(values.values())))
    curves(path, [lines[s] for s in sorted(lines)], "steps", ["metanas", "scratch"], f"{group}, {most} scans: Dice against steps")


def _verdict(rows: Sequence[Row]) -> str:
    """Return the goals and whether each organ reached them, in words; nothing where no cell speaks to them."""
    aims, rows = {100: "must", 500: "goal"}, [r for r in rows if r["shots"] == 5]
    tried = [steps for steps in aims if any(r["method"] == "scratch" and r["steps"] == steps for r in rows)]
    if not tried:
        return ""
    against = " and ".join(f"{steps} ({aims[steps]})" for steps in tried)
    lines = [
        f"\n## Reached?\n\nAt 5 scans: metanas after 20 steps against scratch after {against}; difference of means over draws.\n\n"
    ]
    table = []
    for group, organ in sorted({(r["held_out"], r["organ"]) for r in rows}):
        mine = [r for r in rows if r["held_out"] == group and r["organ"] == organ]
        ours = _by_draw(mine, method="metanas", steps=20)
        line: Row = {"held out": group, "organ": organ, "metanas, 20": _cell(ours)}
        for steps in tried:
            other = _by_draw(mine, method="scratch", steps=steps)
            common = sorted(set(ours) & set(other))
            if not common:
                continue
            margins = [ours[d] - other[d] for d in common]
            line[f"minus scratch, {steps}"] = (
                f"{np.mean(margins):+.3f} ({sum(m > 0 for m in margins)} of {len(margins)} draws above)"
            )
        table.append(line)
    lines.append(markdown_table(table))
    return "".join(lines) + "\n"


def _kept(rows: Sequence[Row], searched: Sequence[Row]) -> str:
    """Return in how many of the ``searched`` cells adaptation kept the meta-learned architecture: that of the frozen variant beside it."""
    place = ("held_out", "organ", "shots", "draw")
    frozen = {tuple(r[k] for k in place): r["architecture"] for r in rows if r["method"] == "metanas-frozen"}
    found = {tuple(r[k] for k in place): r["architecture"] for r in searched}
    both = found.keys() & frozen.keys()
    return f"{sum(found[key] == frozen[key] for key in both)} of {len(both)}" if both else ""


def _details(rows: Sequence[Row]) -> str:
    metanas = [r for r in rows if r["method"] == "metanas" and r["gap_at_switch"]]
    lines = ["\n## Search\n\n"]
    if metanas:
        table = []
        for shots, steps in sorted({(r["shots"], r["steps"]) for r in metanas}):
            mine = [r for r in metanas if (r["shots"], r["steps"]) == (shots, steps)]

            def mean(key: str, mine: Sequence[Row] = mine) -> float:
                return float(np.mean([float(r[key]) for r in mine if r[key] != ""]))

            table.append(
                {
                    "shots": shots,
                    "steps": steps,
                    "top probability, mean": mean("top_probability_mean"),
                    "least": mean("top_probability_min"),
                    "Dice soft - discrete at the switch": mean("gap_at_switch"),
                    "at the end": mean("gap_at_end"),
                    "architecture as meta-learned": _kept(rows, mine),
                }
            )
        lines.append(markdown_table(table) + "\n\nBoth Dice values are on the support's own views.\n")
    for group, seconds, processor in sorted(
        {(r["held_out"], r["meta_seconds"], r.get("meta_processor_seconds") or "") for r in rows if r["meta_seconds"]}
    ):
        busy = f", {processor} s of it the processor's" if processor else ""
        lines.append(f"\nMeta-training without {group}: {seconds} s on one core{busy}.\n")
    return "".join(lines)
