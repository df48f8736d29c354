"""Scatter plots of several scores against one, as panels of one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .figures import COLOURS, save_figure

MARKERS = ("o", "s", "^", "D", "v", "P")


def scatter(
    path: Path | str,
    rows: Sequence[Mapping[str, Any]],
    xs: Mapping[str, str],
    y: str,
    y_label: str,
    colour: str,
    marker: str,
    columns: int = 4,
) -> None:
    """Write a figure with a panel for each column in ``xs`` (column: title) against column ``y``.

    The columns ``colour`` and ``marker`` determine how a point looks. A panel skips points with a value of None.
    """
    lines = -(-len(xs) // columns)
    width = min(len(xs), columns)
    figure = Figure(figsize=(2.7 * width + 0.4, 2.6 * lines + 0.6), layout="constrained")
    panels = figure.subplots(lines, width, squeeze=False, sharey=True)
    colours = {value: COLOURS[i % len(COLOURS)] for i, value in enumerate(sorted({r[colour] for r in rows}))}
    markers = {value: MARKERS[i % len(MARKERS)] for i, value in enumerate(sorted({r[marker] for r in rows}))}
    for axes in panels.ravel()[len(xs) :]:
        axes.set_axis_off()
    for axes, (x, title) in zip(panels.ravel(), xs.items(), strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        for row in rows:
            if row.get(x) is not None and row.get(y) is not None:
                axes.plot(row[x], row[y], markers[row[marker]], color=colours[row[colour]], markersize=4, alpha=0.8)
        axes.set_title(title, loc="left", fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in panels[:, 0]:
        axes.set_ylabel(y_label, fontsize=8)
    handles = [Line2D([], [], color=c, marker="o", linestyle="", label=f"{colour} {v}") for v, c in colours.items()]
    handles += [Line2D([], [], color="0.4", marker=m, linestyle="", label=f"{marker} {v}") for v, m in markers.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    save_figure(figure, path)
