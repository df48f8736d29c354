"""Drawing of an architecture: a U of cells, each with the chosen operation for every input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from .figures import COLOURS, save_figure

_LINE = 0.24  #: height of a text line, inches
_WIDTH = 2.7  #: width of a cell, inches
_INDENT = 0.45  #: indentation per level, inches
_GAP = 0.55  #: gap between levels, inches
_ENCODER, _DECODER = COLOURS[0], COLOURS[3]


@dataclass(frozen=True)
class _Box:
    """The place of a cell: left edge, top edge and height in inches (y points upwards)."""

    x: float
    top: float
    height: float

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + _WIDTH / 2, self.top - self.height / 2

    @property
    def bottom(self) -> float:
        return self.top - self.height


def draw_genotype(path: Path | str, genotype: Mapping[str, Any], title: str = "") -> None:
    """Write the drawing of ``genotype`` (its JSON as a dict) as SVG or PNG, by the suffix of ``path``.

    Levels are rows, finest first, with encoder cells on the left and decoder cells on the right; a dropped skip is a dashed line.
    """
    cells, depth = genotype["cells"], int(genotype["depth"])
    boxes, width, height = _layout(cells, depth)
    figure = Figure(figsize=(width, height + 0.5), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(-height, 0.5)
    axes.set_axis_off()
    widths = list(genotype.get("widths", ()))
    heading = title or f"{genotype.get('space', 'network')}, {genotype.get('dims', 3)}D, {depth} level{'s' if depth > 1 else ''}"
    axes.text(0.15, 0.25, heading, fontsize=12, va="center")
    for name, box in boxes.items():
        level = int("".join(filter(str.isdigit, name)))
        channels = f", {widths[level]} channels" if level < len(widths) else ""
        _draw_cell(axes, box, f"{name}{channels}", cells[name], _DECODER if name.startswith("up") else _ENCODER)
    _draw_flow(axes, boxes, depth, genotype.get("skips", {}))
    save_figure(figure, path)


def _encoder(level: int) -> str:
    return "enc0" if level == 0 else f"down{level}"


def _cell_lines(cell: Mapping[str, Any]) -> list[str]:
    lines = []
    for number, node in enumerate(cell["nodes"]):
        for place, (source, operation) in enumerate(node["inputs"].items()):
            lines.append(f"{f'n{number} =' if place == 0 else '     +'} {operation}({source})")
    if cell.get("residual"):
        lines.append("+ residual")
    return lines


def _layout(cells: Mapping[str, Any], depth: int) -> tuple[dict[str, _Box], float, float]:
    width = 0.3 + 2 * _WIDTH + 2 * _INDENT * max(depth - 1, 0) + 0.9
    top, boxes = -0.55, {}
    for level in range(depth):
        names = [name for name in (_encoder(level), f"up{level}") if name in cells]
        height = max((len(_cell_lines(cells[name])) for name in names), default=0) * _LINE + 0.45
        for name in names:
            inset = 0.15 + level * _INDENT
            x = width - inset - _WIDTH if name.startswith("up") else inset
            if level == depth - 1 and len(names) == 1:
                x = (width - _WIDTH) / 2  # the bottom of the U is centred
            boxes[name] = _Box(x, top, height)
        top -= height + _GAP
    return boxes, width, -top - _GAP + 0.15


def _draw_cell(axes: Axes, box: _Box, name: str, cell: Mapping[str, Any], colour: str) -> None:
    shape = FancyBboxPatch(
        (box.x, box.bottom),
        _WIDTH,
        box.height,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor="white",
        edgecolor=colour,
        linewidth=1.6,
    )
    axes.add_patch(shape)
    axes.text(box.x + 0.12, box.top - 0.2, name, fontsize=9.5, weight="bold", color=colour, va="center")
    for number, line in enumerate(_cell_lines(cell)):
        axes.text(box.x + 0.12, box.top - 0.45 - number * _LINE, line, fontsize=9, family="monospace", color="0.15", va="center")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], label: str = "", **style: Any) -> None:
    look = {"arrowstyle": "-|>", "color": "0.35", "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0} | style
    axes.annotate("", xy=end, xytext=start, arrowprops=look)
    if label:
        axes.text(
            (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.11, label, fontsize=8, color="0.35", ha="center", va="center"
        )


def _draw_flow(axes: Axes, boxes: Mapping[str, _Box], depth: int, skips: Mapping[str, bool]) -> None:
    """Draw the arrows: image to stem, down the encoder, across the skips, up the decoder, head to segmentation."""
    first = boxes["enc0"]
    last = boxes.get("up0", first)
    ends = (first.middle[0], last.middle[0]) if last is not first else (first.x + 0.7, first.x + _WIDTH - 0.7)
    _arrow(axes, (ends[0], first.top + 0.35), (ends[0], first.top))
    axes.text(ends[0], first.top + 0.42, "scan, stem", fontsize=8.5, color="0.35", ha="center")
    _arrow(axes, (ends[1], last.top), (ends[1], last.top + 0.35))
    axes.text(ends[1], last.top + 0.42, "head, labels", fontsize=8.5, color="0.35", ha="center")
    for level in range(1, depth):
        above, below = boxes.get(_encoder(level - 1)), boxes.get(_encoder(level))
        if above and below:
            x = min(max(above.middle[0], below.x + 0.4), above.x + _WIDTH - 0.15)
            _arrow(axes, (x, above.bottom), (x, below.top))
        decoder = boxes.get(f"up{level - 1}")
        source = boxes.get(f"up{level}") or below
        if decoder and source:
            x = max(min(decoder.middle[0], source.x + _WIDTH - 0.4), decoder.x + 0.15)
            _arrow(axes, (x, source.top), (x, decoder.bottom), "")
    for level in range(depth - 1):
        left, right = boxes.get(_encoder(level)), boxes.get(f"up{level}")
        if left and right:
            start, end = (left.x + _WIDTH, left.middle[1]), (right.x, right.middle[1])
            if skips.get(f"up{level}", True):
                _arrow(axes, start, end, "skip")
            else:
                _arrow(axes, start, end, "no skip", arrowstyle="-", color="0.75", linestyle=(0, (4, 4)))
