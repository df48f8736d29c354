"""The drawing of an architecture: boxes in one or two columns, with lines of text and the flow between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from .figures import COLOURS, save_figure

_LINE = 0.24  #: height of a text line, inches
_WIDTH = 2.7  #: of a box
_INDENT = 0.45  #: each level steps inwards by this
_GAP = 0.55  #: between levels
_ENCODER, _DECODER = COLOURS[0], COLOURS[3]


@dataclass(frozen=True)
class _Box:
    """A box's place: left edge, top edge and height in inches (y grows upwards)."""

    x: float
    top: float
    height: float

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + _WIDTH / 2, self.top - self.height / 2

    @property
    def bottom(self) -> float:
        return self.top - self.height


Places = dict[tuple[int, str], _Box]


def draw_architecture(path: Path | str, outline: Mapping[str, Any], title: str = "") -> None:
    """Write the drawing of an architecture as SVG or PNG, by the suffix of ``path``.

    ``outline`` is plain data: ``title``; ``boxes``, each with ``name``, ``lines``, ``level``, ``side`` (left or right) and ``channels``
    (0: not shown); ``skips``, from level to whether its two boxes are connected. Levels are rows, the first on top; a dropped skip is a
    dashed line.
    """
    boxes = {(box["level"], box["side"]): box for box in outline["boxes"]}
    places, width, height = _layout(boxes)
    bottom = height + (0 if _single(boxes) or _two_sided(boxes) else 0.5)
    figure = Figure(figsize=(width, bottom + 0.5), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(-bottom, 0.5)
    axes.set_axis_off()
    axes.text(0.15, 0.25, title or outline["title"], fontsize=12, va="center")
    for place, box in boxes.items():
        channels = f", {box['channels']} channels" if box["channels"] else ""
        colour = _DECODER if box["side"] == "right" else _ENCODER
        _draw_box(axes, places[place], f"{box['name']}{channels}", box["lines"], colour)
    if places:
        _draw_flow(axes, places, outline["skips"])
    save_figure(figure, path)


def _two_sided(boxes: Mapping[tuple[int, str], Any]) -> bool:
    return any(side == "right" for _, side in boxes)


def _single(boxes: Mapping[tuple[int, str], Any]) -> bool:
    return len(boxes) < 2


def _layout(boxes: Mapping[tuple[int, str], Any]) -> tuple[Places, float, float]:
    """Return the places of the boxes, and the width and height of the drawing in inches."""
    depth = max((level for level, _ in boxes), default=-1) + 1
    indent = _INDENT if _two_sided(boxes) else 0.0
    width = 0.3 + 2 * _WIDTH + 2 * indent * max(depth - 1, 0) + 0.9
    top, places = -0.55, Places()
    for level in range(depth):
        sides = [side for side in ("left", "right") if (level, side) in boxes]
        height = max((len(boxes[level, side]["lines"]) for side in sides), default=0) * _LINE + 0.45
        for side in sides:
            inset = 0.15 + level * indent
            x = width - inset - _WIDTH if side == "right" else inset
            if (level == depth - 1 or not indent) and len(sides) == 1:
                x = (width - _WIDTH) / 2  # the bottom of a U is in the middle, and so is a column
            places[level, side] = _Box(x, top, height)
        top -= height + _GAP
    return places, width, -top - _GAP + 0.15


def _draw_box(axes: Axes, box: _Box, name: str, lines: Sequence[str], colour: str) -> None:
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
    for number, line in enumerate(lines):
        axes.text(box.x + 0.12, box.top - 0.45 - number * _LINE, line, fontsize=9, family="monospace", color="0.15", va="center")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], label: str = "", **style: Any) -> None:
    look = {"arrowstyle": "-|>", "color": "0.35", "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0} | style
    axes.annotate("", xy=end, xytext=start, arrowprops=look)
    if label:
        axes.text(
            (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.11, label, fontsize=8, color="0.35", ha="center", va="center"
        )


def _draw_flow(axes: Axes, places: Places, skips: Mapping[int, bool]) -> None:
    """Draw the arrows: image to stem, down on the left, across the skips, up on the right, head to labels."""
    depth = max(level for level, _ in places) + 1
    first = next(iter(places.values()))
    last = places.get((0, "right"), first)
    ends = (first.middle[0], last.middle[0]) if last is not first else (first.x + 0.7, first.x + _WIDTH - 0.7)
    _arrow(axes, (ends[0], first.top + 0.35), (ends[0], first.top))
    axes.text(ends[0], first.top + 0.42, "scan, stem", fontsize=8.5, color="0.35", ha="center")
    if _single(places) or _two_sided(places):
        _arrow(axes, (ends[1], last.top), (ends[1], last.top + 0.35))
        axes.text(ends[1], last.top + 0.42, "head, labels", fontsize=8.5, color="0.35", ha="center")
    else:
        x, y = places[depth - 1, "left"].middle[0], places[depth - 1, "left"].bottom
        _arrow(axes, (x, y), (x, y - 0.35))
        axes.text(x, y - 0.5, "head, labels", fontsize=8.5, color="0.35", ha="center")
    for level in range(1, depth):
        above, below = places.get((level - 1, "left")), places.get((level, "left"))
        if above and below:
            x = min(max(above.middle[0], below.x + 0.4), above.x + _WIDTH - 0.15)
            _arrow(axes, (x, above.bottom), (x, below.top))
        decoder = places.get((level - 1, "right"))
        source = places.get((level, "right")) or below
        if decoder and source:
            x = max(min(decoder.middle[0], source.x + _WIDTH - 0.4), decoder.x + 0.15)
            _arrow(axes, (x, source.top), (x, decoder.bottom), "")
    for level in range(depth - 1):
        left, right = places.get((level, "left")), places.get((level, "right"))
        if left and right:
            start, end = (left.x + _WIDTH, left.middle[1]), (right.x, right.middle[1])
            if skips.get(level, True):
                _arrow(axes, start, end, "skip")
            else:
                _arrow(axes, start, end, "no skip", arrowstyle="-", color="0.75", linestyle=(0, (4, 4)))
