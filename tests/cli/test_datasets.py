"""Unusable data sets: exit code 2, one or two lines that name the problem, and no partial files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanas_med.cli import main

from ..data.broken import KINDS, break_case
from .shared import Refused


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_case(make_msd, tmp_path: Path, refused: Refused, kind: str) -> None:
    root = make_msd("Toy")
    break_case(root, 1, kind)
    shown = refused("prepare", root, "--cache", tmp_path / "cache")
    assert "Toy, case_1" in shown and re.search(KINDS[kind], shown) and "--skip-bad" in shown


def rewrite(**changes: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        tree = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))

    return write


def entry(image: str) -> Callable[[Path], None]:
    return rewrite(training=[{"image": image, "label": "./labelsTr/case_0.nii.gz"}])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), r"dataset\.json: no such file; expected a folder in MSD layout \(see 'Your own scans'"),
        (lambda path: path.write_text('{"labels": '), r"dataset\.json: malformed, not JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe"), r"dataset\.json: malformed, not UTF-8"),
        (lambda path: path.write_text("[]"), r"dataset\.json: malformed, found a list"),
        (rewrite(training=None), "the key 'training' is missing"),
        (rewrite(training=[]), "no training case"),
        (rewrite(training=["case_0"]), "expected {'image': path, 'label': path}"),
        (rewrite(labels=None), "the key 'labels' is missing"),
        (rewrite(modality=None), "the key 'modality' is missing"),
        (entry("../Other/case_0.nii.gz"), "leaves the data set's folder"),
        (entry("/etc/passwd"), "leaves the data set's folder"),
    ],
)
@pytest.mark.parametrize("command", ["prepare", "adapt"])
def test_a_bad_dataset_json(
    make_msd, tmp_path: Path, tiny_run: Path, refused: Refused, harm: Callable[[Path], None], message: str, command: str
) -> None:
    root = make_msd("Toy")
    harm(root / "dataset.json")
    arguments = ["prepare", root, "--cache", tmp_path / "cache"]
    if command == "adapt":
        arguments = ["adapt", tiny_run, root, "--organ", "first", "--shots", "1", "--out", tmp_path / "model"]
    shown = refused(*arguments)
    assert "Toy" in shown and re.search(message, shown)


def test_a_link_that_leaves_the_folder(make_msd, tmp_path: Path, refused: Refused) -> None:
    root, other = make_msd("Toy"), make_msd("Other")
    (root / "imagesTr/case_0.nii.gz").unlink()
    (root / "imagesTr/case_0.nii.gz").symlink_to(other / "imagesTr/case_0.nii.gz")
    assert "is a link that leaves" in refused("prepare", root, "--cache", tmp_path / "cache")


def test_prepare_lists_all_bad_cases_and_sets_them_aside(
    make_msd, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [make_msd("A", num_cases=5), tmp_path / "absent", make_msd("B", num_cases=4), make_msd("Good")]
    for number, kind in enumerate(["shape", "NaN", "missing"]):
        break_case(roots[0], number, kind)
    break_case(roots[2], 3, "bit flip")
    command = ["prepare", *map(str, roots), "--cache", str(tmp_path / "cache")]
    shown = refused(*command)
    assert "5 problem(s)" in shown
    for place in ("A │ case_0", "A │ case_1", "A │ case_2", "B │ case_3", "absent │"):
        assert place in shown
    # --skip-bad applies to cases: a missing folder is an error, and the other data sets are written
    assert main([*command, "--skip-bad"]) == 2
    found = capsys.readouterr()
    shown = found.out
    assert "no usable case is left in absent; the other data sets were written" in found.err
    assert shown.count("set aside: ") == 5 and sorted(p.name for p in (tmp_path / "cache").iterdir()) == [
        "A.h5",
        "B.h5",
        "Good.h5",
    ]


def test_prepare_says_if_nothing_was_written(make_msd, tmp_path: Path, refused: Refused) -> None:
    root, cache = make_msd("Bad", num_cases=2), tmp_path / "cache"
    cache.mkdir()
    for number in range(2):
        break_case(root, number, "NaN")
    shown = refused("prepare", root, "--cache", cache, "--skip-bad")
    assert "no usable case is left in Bad; nothing was written. Fix what was set aside and run the command again." in shown
    assert "the other" not in shown
    shown = refused("prepare", root, tmp_path / "absent", "--cache", cache, "--skip-bad")
    assert "no usable case is left in Bad, absent; nothing was written." in shown


def test_an_organ_that_no_case_holds_stops_prepare(make_msd, tmp_path: Path, refused: Refused) -> None:
    root = make_msd("Toy")
    rewrite(labels={"0": "background", "1": "first", "2": "second", "3": "ghost"})(root / "dataset.json")
    assert "empty organ 'ghost'" in refused("prepare", root, "--cache", tmp_path / "cache")


def test_every_command_that_needs_all_cases_lists_all_bad_ones(
    make_msd, config: Path, tiny_run: Path, tiny_model: Path, tmp_path: Path, refused: Refused
) -> None:
    root = make_msd("Toy", labels=("left",))
    for number in (0, 2):
        break_case(root, number, "NaN")
    out = ["--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    for command in (["search", root, "--config", config], ["evaluate", tiny_model, root]):
        shown = refused(*command, *out)
        assert "2 problem(s)" in shown and "Toy │ case_0 │" in shown and "Toy │ case_2 │" in shown
    break_case(root, 1, "NaN")  # adapt leaves bad cases out while it can
    assert "3 problem(s)" in refused("adapt", tiny_run, root, *out)


@pytest.mark.parametrize("columns", ["80", "400"])
def test_the_table_of_prepare_breaks_no_word(
    make_msd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.chdir(tmp_path)  # the name of the cache folder is then short
    organs = ("cerebral white matter", "cerebral cortex", "lateral ventricle", "thalamus", "caudate", "putamen", "pallidum")
    organs += ("hippocampus", "brainstem", "cerebellum")
    long = make_msd("Ext29_AbdomenTotalSegPseudo_2", labels=organs, channels=4, shape=(14, 12, 8))
    assert main(["prepare", str(long), str(make_msd("Toy")), "--cache", "cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= int(columns) and any("┃" in line for line in lines) == (columns == "400")
    for text in ("Ext29_AbdomenTotalSegPseudo_2", "Toy", "14 x 12 x 8", "3 (one per file)", "MR, MR, MR, MR", *organs):
        assert any(text in line for line in lines), text


def test_paths_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets are not markup, and a long path is not broken at the width of the terminal."""
    out = tmp_path / f"x[/b][left]{'y' * 90}"
    assert main(["phantom", str(out), "--cases", "1"]) == 0
    assert f"wrote 10 data sets to {out}\n" in capsys.readouterr().out


def test_a_damaged_cache(tmp_path: Path, config: Path, pair: Path, tiny_run: Path, refused: Refused) -> None:
    (tmp_path / "cache").mkdir()
    broken = tmp_path / "cache" / pair.name
    broken.write_bytes(pair.read_bytes()[:3000])
    shown = refused("meta-train", "--config", config, "--cache", tmp_path / "cache", "--out", tmp_path / "run")
    assert "Phantom06_Pair.h5: damaged cache file" in shown
    assert "damaged cache file" in refused("adapt", tiny_run, broken, "--out", tmp_path / "model")
    assert "no such cache file" in refused("adapt", tiny_run, tmp_path / "none.h5", "--out", tmp_path / "model")
    shown = refused("meta-train", "--config", config, "--cache", tmp_path / "empty", "--out", tmp_path / "run")
    assert "no cached data set; make one with 'metanas-med prepare" in shown


def test_prepare_shows_the_names_of_channels(make_msd, edit_json, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_msd("Two", channels=2)
    edit_json(root, modality={"0": "MRI", "1": "T2 FLAIR"})
    assert main(["prepare", str(root), "--cache", str(tmp_path / "cache")]) == 0
    assert "MR, MR (T2 FLAIR)" in capsys.readouterr().out
