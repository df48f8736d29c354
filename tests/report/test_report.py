"""Figures and tables: files have the right format, are not blank, and contain the expected text."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from metanas_med.report import figures
from metanas_med.report.figures import MAX_BYTES, alpha_heatmap, bars, curves, overlay, panels
from metanas_med.report.genotype import draw_architecture
from metanas_med.report.tables import FittedTable, fit_widths, markdown_table, rich_table

BOXES: dict[str, list[str]] = {
    "enc0": ["n0 = conv331(s0)"],
    "down1": ["n0 = conv333(s0)", "     + identity(s1)", "n1 = p3d(s0)", "     + conv133(n0)", "+ residual"],
    "down2": ["n0 = dwsep333(s0)", "n1 = max_pool(s0)", "     + conv333(n0)", "+ residual"],
    "down3": ["n0 = dilated333(s0)", "n1 = conv111(s0)", "     + conv333(n0)"],
    "up2": ["n0 = conv313(s0)", "     + conv333(s1)", "n1 = avg_pool(s1)", "     + conv333(n0)", "+ residual"],
    "up1": ["n0 = conv333(s0)", "     + identity(s1)", "n1 = p3d(s0)", "     + conv333(n0)"],
    "up0": ["n0 = conv333(s1)"],
}


def outline_of(depth: int) -> dict[str, Any]:
    boxes = []
    for level in range(depth):
        for name in (f"down{level}" if level else "enc0", *([f"up{level}"] if level < depth - 1 else [])):
            side = "right" if name.startswith("up") else "left"
            boxes.append({"name": name, "lines": BOXES[name], "level": level, "side": side, "channels": 8 * 2**level})
    return {"title": "a U", "boxes": boxes, "skips": {0: False, 1: True, 2: True}}


def check_png(path: Path) -> None:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[0] > 100 and pixels.shape[1] > 200 and pixels.std() > 5
    assert path.stat().st_size < MAX_BYTES


def ball(shape: tuple[int, int, int], centre: tuple[float, ...], radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    grid = np.indices(shape, dtype=float) * np.reshape(spacing, (3, 1, 1, 1))
    return ((grid - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0) < radius**2


def test_curves(tmp_path: Path) -> None:
    rows = [{"iteration": i, "loss": 2 / (i + 1), "dice": None if i % 5 else i / 50} for i in range(40)]
    rows.append({"iteration": 40, "loss": float("nan")})
    curves(tmp_path / "curves.png", rows, "iteration", ["loss", "dice", "absent"], "Meta-training")
    check_png(tmp_path / "curves.png")
    curves(tmp_path / "empty.png", [], "iteration", ["loss", "dice"], "Nothing yet")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["curves.png", "empty.png"]


def test_panels(tmp_path: Path) -> None:
    rows = [{"steps": n, "one": 0.1 + n / 200, "other": None if n == 5 else 0.5} for n in (0, 5, 20, 100)]
    panels(
        tmp_path / "panels.png", {f"organ {i}": rows[i:] for i in range(5)}, "steps", ["other", "one", "absent"], "Dice", linear=5
    )
    check_png(tmp_path / "panels.png")
    panels(tmp_path / "empty.png", {}, "steps", ["one"], "Nothing yet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.png", "panels.png"]


def test_overlay(tmp_path: Path) -> None:
    spacing = (1.0, 1.0, 5.0)
    shape = (90, 70, 18)
    truth = ball(shape, (50, 40, 45), 18, spacing).astype(np.uint8) + ball(shape, (50, 45, 45), 8, spacing)
    prediction = ball(shape, (53, 38, 45), 18, spacing).astype(np.uint8)
    image = np.random.default_rng(0).normal(size=shape) * 20 + 60.0 * truth
    overlay(tmp_path / "overlay.png", image, truth, prediction, spacing, "Held-out organ, Dice 0.84")
    check_png(tmp_path / "overlay.png")
    overlay(tmp_path / "plain.png", image, None, None, spacing, "")
    overlay(tmp_path / "empty.png", np.zeros(shape), np.zeros(shape, np.uint8), None, spacing, "constant image, empty label")
    check_png(tmp_path / "plain.png")


def test_a_figure_of_noise_stays_small(tmp_path: Path) -> None:
    overlay(tmp_path / "noise.png", np.random.default_rng(0).normal(size=(500, 500, 500 // 20)), None, None, (1, 1, 20), "noise")
    check_png(tmp_path / "noise.png")


def test_alpha_heatmap(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ops, pairs = ["conv333", "conv331", "p3d", "identity"], ["s0+s1", "s0+n0"]
    labels = {f"down{level}.n{node}.s0": ops for level in (1, 2) for node in (0, 1)} | {
        "down1.n1.pair": pairs,
        "up1.n1.pair": pairs,
    }
    alpha_heatmap(
        tmp_path / "alpha.png",
        {name: rng.dirichlet([1] * len(row)).tolist() for name, row in labels.items()},
        labels,
        "Alpha, step 20",
    )
    check_png(tmp_path / "alpha.png")
    alpha_heatmap(tmp_path / "none.png", {}, {})


@pytest.mark.parametrize("name", ["a", "metanas", "metanas-unlabelled-random-labels", "metanas-" * 7])
def test_the_legend_of_bars_is_inside_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    rows = [{"group": "organ", "kind": f"{name}{k}", "mean": 0.5, "low": 0.4, "high": 0.7} for k in range(9)]
    figures.bars(tmp_path / "bars.png", rows, "After 20 steps")
    canvas = FigureCanvasAgg(drawn[0])
    canvas.draw()
    box = drawn[0].legends[0].get_window_extent(canvas.get_renderer())
    assert box.x0 >= 0 and box.x1 <= drawn[0].bbox.width


def test_bars(tmp_path: Path) -> None:
    rows = [
        {"group": f"organ {g}", "kind": f"method {k}", "mean": 0.5 + 0.01 * k, "low": 0.4, "high": 0.7}
        for g in range(9)
        for k in range(13)
    ]
    bars(tmp_path / "bars.png", rows[:-1], "After 20 steps")  # not every organ has every method
    check_png(tmp_path / "bars.png")
    bars(tmp_path / "none.png", [], "Nothing yet")


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_architecture(tmp_path: Path, suffix: str) -> None:
    path, again = tmp_path / f"architecture{suffix}", tmp_path / f"again{suffix}"
    draw_architecture(path, outline_of(4))
    draw_architecture(again, outline_of(4))
    assert path.read_bytes() == again.read_bytes()
    if suffix == ".png":
        check_png(path)
        return
    drawing = path.read_text()
    assert drawing.lstrip().startswith("<?xml") and "</svg>" in drawing
    for line in (line.strip() for lines in BOXES.values() for line in lines):
        assert line in drawing
    for text in (*BOXES, "no skip", "64 channels", "a U"):
        assert text in drawing


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_shallow_architecture(tmp_path: Path, depth: int) -> None:
    draw_architecture(tmp_path / "shallow.svg", outline_of(depth), title="found <&> drawn")
    drawing = (tmp_path / "shallow.svg").read_text()
    assert ("down3" in drawing, f"down{depth - 1}" in drawing) == (False, depth > 1)
    assert "a U" not in drawing and "found &lt;&amp;&gt; drawn" in drawing


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_column_of_boxes(tmp_path: Path, number: int) -> None:
    boxes = [{"name": f"part{n}", "lines": [f"op = conv{n}"], "level": n, "side": "left", "channels": 0} for n in range(number)]
    draw_architecture(tmp_path / "column.svg", {"title": "a chain", "boxes": boxes, "skips": {}})
    drawing = (tmp_path / "column.svg").read_text()
    assert "a chain" in drawing and all(f"op = conv{n}" in drawing for n in range(number))
    assert ("head, labels" in drawing) == (number > 0) and "channels" not in drawing


def test_tables() -> None:
    rows = [{"organ": "left|atrium", "dice": 0.81234, "cases": 15}, {"organ": "[b]cord", "dice": None, "cases": 2}]
    text = markdown_table(rows, {"organ": "Organ", "dice": "Dice"})
    assert text.splitlines() == ["| Organ | Dice |", "| --- | ---: |", "| left\\|atrium | 0.812 |", "| [b]cord | – |"]
    assert markdown_table(rows).startswith("| organ | dice | cases |")
    shown = shown_at(80, rich_table(rows, ["organ", "dice", "cases"], "Results"))
    assert "[b]cord" in shown and "0.812" in shown and shown.startswith("Results\n")
    assert "│    15 │" in shown  # numbers are aligned right


def shown_at(width: int, table: FittedTable) -> str:
    """Return the text that a console of ``width`` columns shows."""
    console = Console(width=width, file=io.StringIO(), soft_wrap=True)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


ORGANS = (
    "cerebral white matter", "cerebral cortex", "lateral ventricle", "thalamus", "caudate", "putamen", "pallidum",
    "hippocampus", "brainstem", "cerebellum",
)  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 100, 130, 200])
def test_a_table_never_breaks_a_word_or_an_item(width: int) -> None:
    """With enough width it is a table; otherwise each row is a block. No line is longer than the console."""
    rows = [
        {"data set": (name,), "kind": ("MR",) * 4, "cases": number, "organs": ORGANS, "problem": "the header claims 12345 voxels"}
        for number, name in enumerate(["Ext29_AbdomenTotalSegPseudo", "Task04_Hippocampus"], 7)
    ]
    lines = shown_at(width, rich_table(rows, title="bad cases of two data sets, which is a title of two lines")).splitlines()
    assert max(map(len, lines)) <= width
    for item in ("Ext29_AbdomenTotalSegPseudo", "Task04_Hippocampus", *ORGANS, "header", "claims", "12345", "voxels"):
        assert any(item in line for line in lines), item
    assert any("┃" in line for line in lines) == (width >= 100)


def test_a_word_longer_than_the_line_stays_whole() -> None:
    path = f"/data/{'x' * 90}/case_1.nii.gz:"
    lines = shown_at(80, rich_table([{"case": "", "problem": f"{path} no such file"}], title=path)).splitlines()
    assert lines == [path, f"problem  {path}", "         no such file"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 50)), min_size=1, max_size=8), st.integers(10, 200))
def test_column_widths_use_the_room(columns: list[tuple[int, int]], room: int) -> None:
    least, most = [a for a, _ in columns], [a + b for a, b in columns]
    found = fit_widths(least, most, room)
    if sum(least) > room:
        assert found is None
        return
    assert found is not None and all(a <= w <= b for a, w, b in zip(least, found, most, strict=True))
    assert sum(found) == min(room, sum(most))


def test_tables_without_rows_or_columns() -> None:
    assert shown_at(80, rich_table([], title="nothing")) == "nothing\n"
    assert "organ" in shown_at(80, rich_table([], ["organ"]))
