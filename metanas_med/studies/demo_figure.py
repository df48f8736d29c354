"""The picture of the demo: Dice against steps, and one held-out scan with what two methods find in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ..report.figures import COLOURS, MARKS, save_figure
from ..report.statistics import Margin


@dataclass(frozen=True)
class Example:
    """A query scan: ``image``, ``truth`` and, by method, ``found``, all (X, Y, Z); label 0 is background."""

    case: str
    image: NDArray[Any]
    truth: NDArray[Any]
    found: Mapping[str, NDArray[Any]]
    title: str


def draw(path: Path, steps: Sequence[int], curves: Mapping[int, Mapping[str, Sequence[Margin]]], example: Example) -> None:
    """Write the picture: a panel for each number of scans in ``curves`` (means by method after ``steps``), and the example."""
    methods = list(next(iter(curves.values())))
    colours = dict(zip(methods, COLOURS, strict=False))
    figure = Figure(figsize=(4.2 * (len(curves) + 1), 4.2), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(curves) + 1)
    for axes, (shots, lines) in zip(panels, curves.items(), strict=False):
        _lines(axes, steps, lines, colours)
        axes.set_title(f"{shots} support scan{'s' if shots > 1 else ''}", loc="left", fontsize=10)
    panels[0].set_ylabel("Dice on held-out organs, 95 % interval")
    _slice(panels[-1], example, colours)
    handles = [Line2D([], [], color=colours[m], marker=MARKS[i % len(MARKS)], label=m) for i, m in enumerate(methods)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    save_figure(figure, path)


def _lines(axes: Axes, steps: Sequence[int], lines: Mapping[str, Sequence[Margin]], colours: Mapping[str, str]) -> None:
    shift = 0.01 * max(max(steps), 1)
    for number, (method, margins) in enumerate(lines.items()):
        mean = np.array([m.mean for m in margins])
        spread = [mean - [m.low for m in margins], [m.high for m in margins] - mean]
        across = np.array(steps) + (number - 1) * shift  # so that intervals do not cover each other
        mark = MARKS[number % len(MARKS)]
        axes.errorbar(across, mean, np.clip(spread, 0, None), color=colours[method], marker=mark, markersize=4, capsize=2)
    axes.set_xlabel("gradient steps")
    axes.set_xticks(list(steps))
    axes.set_ylim(0, 1)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _slice(axes: Axes, example: Example, colours: Mapping[str, str]) -> None:
    """Draw the slice across the last axis that shows most of the truth, with contours."""
    index = int(np.argmax((example.truth > 0).sum(axis=(0, 1))))
    low, high = np.percentile(example.image, (0.5, 99.5))
    axes.imshow(example.image[:, :, index].T, cmap="gray", vmin=low, vmax=high, origin="lower")
    _contour(axes, example.truth[:, :, index], "white", "solid")
    for method, style in zip(example.found, ("dashed", "dotted"), strict=False):
        _contour(axes, example.found[method][:, :, index], colours[method], style)
    axes.set_title(f"{example.title}\nwhite: truth", loc="left", fontsize=9)
    axes.set_axis_off()


def _contour(axes: Axes, label: NDArray[Any], colour: str, style: str) -> None:
    if label.any():
        axes.contour((label > 0).astype(float).T, levels=[0.5], colors=[colour], linestyles=style, linewidths=1.8)
