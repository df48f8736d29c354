"""Figures as PNG or SVG: curves, overlays, alpha heat maps, bars; each is written atomically, and PNG files stay under 300 KiB.

Uses only matplotlib's object API: without pyplot there is no global list of figures, and no display is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ..files import atomic_path

MAX_BYTES = 300 * 1024
#: Okabe and Ito's colours, which colour-blind readers can distinguish, without yellow and black.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
#: line styles, changed when all colours are used
STYLES = ("solid", "dashed", "dotted")
#: hatches of bars, changed in the same way
HATCHES = (None, "////", "....")
#: markers of points, changed in the same way, because a single point shows no line style
MARKS = ("o", "s", "^")


def save_figure(figure: Figure, path: Path | str, dpi: int = 120) -> None:
    """Write ``figure`` as PNG or SVG, by suffix; a PNG over 300 KiB is drawn again at a lower resolution."""
    path = Path(path)
    with atomic_path(path) as temporary:
        if path.suffix == ".svg":
            # fonttype "none" keeps text searchable; a fixed salt and no date make the bytes reproducible
            with rc_context({"svg.fonttype": "none", "svg.hashsalt": "metanas_med"}):
                FigureCanvasSVG(figure).print_svg(temporary, metadata={"Date": None})
            return
        for dots in (dpi, dpi * 3 // 4, dpi // 2, dpi // 3):
            figure.set_dpi(dots)
            FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
            if temporary.stat().st_size < MAX_BYTES:
                break


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def curves(path: Path | str, rows: Sequence[Mapping[str, Any]], x: str, ys: Sequence[str], title: str) -> None:
    """Write a figure with a line for each of ``ys`` over column ``x`` of ``rows``; a line skips rows without a finite value."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    _lines(axes, rows, x, ys)
    axes.set_xlabel(x)
    axes.set_title(title, loc="left")
    if len(ys) > 1 and axes.lines:
        axes.legend(frameon=False)
    elif ys:
        axes.set_ylabel(ys[0])
    save_figure(figure, path)


def panels(
    path: Path | str,
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    x: str,
    ys: Sequence[str],
    title: str,
    linear: float = 0.0,
) -> None:
    """Write a figure with the `curves` of each of ``groups`` (title: rows) in its own panel, four per row, with one legend.

    With ``linear``, the x axis is linear up to that value and logarithmic beyond it.
    """
    across = min(4, max(len(groups), 1))
    down = -(-max(len(groups), 1) // across)
    figure = Figure(figsize=(2.6 * across, 2.2 * down + 1.0), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    names: dict[str, Any] = {}
    for axes, (name, rows) in zip(grid, groups.items(), strict=False):
        _lines(axes, rows, x, ys)
        if linear:
            axes.set_xscale("symlog", linthresh=linear)
            ticks = sorted({row[x] for row in rows})
            axes.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=8)
            axes.set_xticks([], minor=True)
        axes.tick_params(axis="y", labelsize=8)
        axes.set_title(name, fontsize=9, loc="left")
        names |= {str(line.get_label()): line for line in axes.lines}
    for axes in grid[len(groups) :]:
        axes.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    if names:
        shown = [name for name in ys if name in names]
        figure.legend(
            [names[n] for n in shown],
            shown,
            loc="outside lower center",
            ncols=min(len(shown), 2 * across),
            frameon=False,
            fontsize=8,
        )
    save_figure(figure, path)


def _lines(axes: Axes, rows: Sequence[Mapping[str, Any]], x: str, ys: Sequence[str]) -> None:
    """Draw a line for each of ``ys`` over column ``x``; its position in ``ys`` determines colour, style and marker."""
    _tidy(axes)
    for number, name in enumerate(ys):
        points = [(row[x], row[name]) for row in rows if row.get(name) is not None and np.isfinite(row[name])]
        if points:
            across, up = zip(*points, strict=True)
            turn = number // len(COLOURS)
            mark = MARKS[turn % len(MARKS)] if len(points) <= 30 else ""
            style = STYLES[turn % len(STYLES)]
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(across, up, color=colour, linestyle=style, label=name, linewidth=1.8, marker=mark, markersize=4)


def overlay(
    path: Path | str,
    image: NDArray[Any],
    truth: NDArray[Any] | None,
    prediction: NDArray[Any] | None,
    spacing: Sequence[float],
    title: str = "",
) -> None:
    """Write a figure of three orthogonal slices of ``image`` (X, Y, Z), those with the largest foreground, with contours.

    ``truth`` (solid lines) and ``prediction`` (dashed lines), both (X, Y, Z), hold label values, one colour per label.
    ``spacing`` (3,) is in mm and gives each slice its true proportions.
    """
    step = np.asarray(spacing, dtype=float)
    marked = [label for label in (truth, prediction) if label is not None]
    shown = next((label > 0 for label in marked if label.any()), None)
    values = sorted({int(value) for label in marked for value in np.unique(label)} - {0})
    low, high = np.percentile(image[np.isfinite(image)], (0.5, 99.5))
    extent = np.asarray(image.shape) * step
    widths = [float(extent[[a for a in range(3) if a != axis][0]]) for axis in range(3)]
    figure = Figure(figsize=(10, 4.2), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 3, width_ratios=np.maximum(widths, 0.25 * max(widths)).tolist())
    for axis, axes in enumerate(panels):
        across, up = (a for a in range(3) if a != axis)
        if shown is None:
            index = image.shape[axis] // 2
        else:
            index = int(np.argmax(shown.sum(axis=(across, up))))
        aspect = step[up] / step[across]
        axes.imshow(
            np.take(image, index, axis).T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=aspect
        )
        for label, style in ((truth, "solid"), (prediction, "dashed")):
            if label is not None:
                _contours(axes, np.take(label, index, axis).T, values, style)
        axes.set_title(f"{'XYZ'[axis]} = {index}", fontsize=9, color="0.3")
        axes.set_axis_off()
    _overlay_legend(figure, values, truth is not None, prediction is not None)
    figure.suptitle(title, x=0.01, ha="left")
    save_figure(figure, path)


def _contours(axes: Axes, label: NDArray[Any], values: Sequence[int], style: str) -> None:
    # add a border of background, so that an organ at the edge also has a closed contour
    padded = np.pad(label, 1)
    rows, columns = (np.arange(-1, size + 1) for size in label.shape)
    for number, value in enumerate(values):
        mask = padded == value
        if mask.any():
            colour = COLOURS[(number + 1) % len(COLOURS)]
            axes.contour(columns, rows, mask.astype(float), levels=[0.5], colors=[colour], linestyles=style, linewidths=1.5)


def _overlay_legend(figure: Figure, values: Sequence[int], truth: bool, prediction: bool) -> None:
    handles = [Line2D([], [], color=COLOURS[(n + 1) % len(COLOURS)], label=f"label {value}") for n, value in enumerate(values)]
    if truth:
        handles.append(Line2D([], [], color="0.4", linestyle="solid", label="truth"))
    if prediction:
        handles.append(Line2D([], [], color="0.4", linestyle="dashed", label="prediction"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), frameon=False, fontsize=9)


def alpha_heatmap(
    path: Path | str,
    rows: Mapping[str, Sequence[float]],
    labels: Mapping[str, Sequence[str]],
    title: str = "",
    marked: Collection[str] = (),
) -> None:
    """Write a heat map of each alpha row's probabilities; ``labels[row]`` names its choices. Equal choices share a panel.

    Names of ``marked`` rows have a star; ``title`` says what it means.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in rows:
        groups.setdefault(tuple(labels[name]), []).append(name)
    heights = [len(names) + 2.5 for names in groups.values()]
    size = min(max(0.22 * sum(heights), 2.5), 24)
    figure = Figure(figsize=(8, size), layout="constrained")
    panels = figure.subplots(len(groups) or 1, 1, squeeze=False, height_ratios=heights or None)
    drawn = None
    for axes, (choices, names) in zip(panels[:, 0], groups.items(), strict=False):
        table = np.array([rows[name] for name in names], dtype=float)
        drawn = axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(choices)), choices, fontsize=7, rotation=20 if len(choices) > 6 else 0)
        axes.set_yticks(range(len(names)), [f"{name} *" if name in marked else name for name in names], fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for row, column in np.ndindex(*table.shape):
            ink = "white" if table[row, column] > 0.6 else "0.25"
            axes.text(column, row, f"{table[row, column]:.2f}", ha="center", va="center", fontsize=6, color=ink)
    if drawn is not None:
        figure.colorbar(drawn, ax=panels.ravel().tolist(), label="probability", shrink=min(1.0, 4 / size), aspect=25)
    figure.suptitle(title, x=0.01, ha="left")
    save_figure(figure, path)


def bars(path: Path | str, rows: Sequence[Mapping[str, Any]], title: str, value_label: str = "Dice") -> None:
    """Write a figure of horizontal bars of ``mean`` with intervals from ``low`` to ``high``, grouped by ``group``.

    Each ``kind`` has one colour and hatch.
    """
    groups, kinds = (list(dict.fromkeys(str(row[key]) for row in rows)) for key in ("group", "kind"))
    figure = Figure(figsize=(7, 1.5 + 0.13 * len(rows) + 0.15 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    place, ticks = 0.0, []
    for group in groups:
        mine = [row for row in rows if row["group"] == group]
        ticks.append(place + (len(mine) - 1) / 2)
        for row in mine:
            number = kinds.index(row["kind"])
            hatch = HATCHES[number // len(COLOURS) % len(HATCHES)]
            axes.barh(
                place, row["mean"], height=0.9, color=COLOURS[number % len(COLOURS)], hatch=hatch, edgecolor="white", linewidth=0
            )
            axes.plot([row["low"], row["high"]], [place, place], color="0.15", linewidth=1, solid_capstyle="butt")
            place += 1
        place += 1
    axes.set_yticks(ticks, groups)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.set_ylim(place - 1.4, -0.6)
    axes.set_xlabel(value_label)
    handles = [
        Patch(facecolor=COLOURS[n % len(COLOURS)], hatch=HATCHES[n // len(COLOURS) % len(HATCHES)], edgecolor="white", label=kind)
        for n, kind in enumerate(kinds)
    ]
    columns = max(1, min(4, 90 // (max(map(len, kinds), default=0) + 8)))  # a line has room for about 90 letters
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    figure.suptitle(title, x=0.02, ha="left")
    save_figure(figure, path)
