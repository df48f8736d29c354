"""A page of thumbnails of a prepared data set: a slice a case with the outlines of its labels, because looking finds wrong labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..data.cached import CachedCase, CachedDataset
from .figures import COLOURS, STYLES, save_figure

#: cases of a page, and of a row
MOST, _ACROSS = 20, 5
#: organs that the legend names
_NAMED = 12


def draw_thumbnails(path: Path | str, data: CachedDataset) -> Path:
    """Return ``path`` after drawing up to ``MOST`` cases, spread evenly, each by the slice with most labelled voxels.

    Slices are across the thickest axis. Directions are those of the patient: x grows to the right, y to the front, z to the head.
    Ignored voxels are hatched. Cost: one read of a scan and its label map a case.
    """
    path = Path(path)
    chosen = [data.cases[int(i)] for i in np.unique(np.linspace(0, len(data.cases) - 1, min(MOST, len(data.cases))).round())]
    across = min(_ACROSS, len(chosen))
    down = -(-len(chosen) // across)
    figure = Figure(figsize=(2.2 * max(across, 2), 2.4 * down + 0.9), layout="constrained", facecolor="white")
    panels = np.atleast_1d(figure.subplots(down, across)).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, case in zip(panels, chosen, strict=False):
        _draw_case(axes, data, case)
    number = f"{len(chosen)} of {len(data.cases)} cases" if len(chosen) < len(data.cases) else f"{len(chosen)} case(s)"
    figure.suptitle(f"{data.name}: {number}; right of a picture is the patient's right in axial and coronal slices", fontsize=9)
    lines = [
        Line2D([], [], color=_colour(value, data), linestyle=_style(value, data), label=name)
        for value, name in data.labels.items()
    ]
    more = len(lines) - _NAMED
    title = f"and {more} more organ(s)" if more > 0 else None
    figure.legend(handles=lines[:_NAMED], loc="outside lower center", ncols=4, fontsize=8, frameon=False, title=title)
    save_figure(figure, path)
    return path


def _draw_case(axes: Axes, data: CachedDataset, case: CachedCase) -> None:
    label = data.label(case.name)
    organs = np.where(label == data.ignore, 0, label) if data.ignore is not None else label
    axis = int(np.argmax(case.spacing)) if max(case.spacing) > 1.2 * min(case.spacing) else 2
    x, y = (a for a in range(3) if a != axis)
    area = np.count_nonzero(organs, axis=(x, y))
    index = int(area.argmax()) if area.any() else organs.shape[axis] // 2
    place = tuple(slice(index, index + 1) if a == axis else slice(None) for a in range(3))
    image = data.channel(case.name, 0, place).squeeze(axis).astype(np.float32)
    low, high = np.percentile(image, (0.5, 99.5))
    aspect = case.spacing[y] / case.spacing[x]
    axes.imshow(image.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=aspect)
    shown = organs.take(index, axis).T
    for value in np.unique(shown):
        if value:
            # zeros around, so that an organ at the border has an outline there
            mask = np.pad(shown == value, 1).astype(float)
            grid = (np.arange(-1, shown.shape[1] + 1), np.arange(-1, shown.shape[0] + 1))
            axes.contour(*grid, mask, levels=[0.5], colors=[_colour(value, data)], linestyles=_style(value, data), linewidths=1)
    if data.ignore is not None and (ignored := label.take(index, axis).T == data.ignore).any():
        axes.contourf(ignored.astype(float), levels=[0.5, 1.5], colors="none", hatches=["////"])
    held = len(case.label_voxels)
    name = case.name if len(case.name) <= 24 else f"{case.name[:10]}...{case.name[-11:]}"
    axes.set_title(f"{name}\n{'XYZ'[axis]} = {index}, {held} organ(s)", fontsize=6.5)


def _place(value: int, data: CachedDataset) -> int:
    return list(data.labels).index(int(value))


def _colour(value: int, data: CachedDataset) -> str:
    return COLOURS[_place(value, data) % len(COLOURS)]


def _style(value: int, data: CachedDataset) -> Any:
    return STYLES[_place(value, data) // len(COLOURS) % len(STYLES)]
