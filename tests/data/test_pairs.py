"""Plain pairs of scans and label maps, and folders of BIDS: what is paired, and every bad case in one table."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.cli import main
from metanas_med.data.cache import BadCases, prepare
from metanas_med.data.cached import CachedDataset, open_cache
from metanas_med.data.dataset import read_dataset, survey_dataset, survey_pairs
from metanas_med.data.pairs import Pairs
from metanas_med.data.scans import survey_scans
from metanas_med.errors import DataError

from .series import write_series

SHAPE = (10, 12, 8)


def scan(path: Path, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Path:
    return save(path, np.random.default_rng(seed).integers(-500, 500, shape).astype(np.int16))


def label(path: Path, *values: int) -> Path:
    array = np.zeros(SHAPE, np.uint8)
    for number, value in enumerate(values):
        array[2 + 2 * number : 4 + 2 * number, 3:6, 2:5] = value
    return save(path, array)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def make_pairs(root: Path, image: str, mask: str, number: int = 3) -> Pairs:
    for n in range(number):
        scan(root / image.format(n), n)
        label(root / mask.format(n), 1, 2)
    return Pairs("mine", (root / image).parent, (root / mask).parent, ("CT",), ((1, "liver"), (2, "tumour")))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("imagesTr/p{}.nii.gz", "labelsTr/p{}.nii.gz"),
        ("scans/p{}.nii", "masks/p{}_seg.nii.gz"),
        ("scans/p{}_ct.nii.gz", "masks/p{}.nii.gz"),
        ("scans/p{}_ct.nii.gz", "masks/p{}_ct_label.nii.gz"),
        ("flat/p{}.nii.gz", "flat/p{}-mask.nii.gz"),
        ("scans/p{}_0000.nii.gz", "masks/p{}.nii.gz"),
    ],
)
def test_pairs_are_found_by_name(
    tmp_path: Path, cache_dir: Path, image: str, mask: str, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = make_pairs(tmp_path / "in", image, mask)
    scan(tmp_path / "in" / image.format(9), 9)  # a scan without a label map is none of the cases
    (row,) = prepare([], cache_dir, pairs=pairs)
    assert "1 scan(s) have no label map, such as p9" in caplog.text
    assert (row.name, row.cases, row.bad, row.labels) == ("mine", 3, (), {1: "liver", 2: "tumour"})
    cache = open_cache(cache_dir / "mine.h5")
    assert [c.label_voxels for c in cache.cases] == [{1: 18, 2: 18}] * 3 and cache.modality == ("CT",)
    assert [c.name.removesuffix("_ct") for c in cache.cases] == ["p0", "p1", "p2"]
    np.testing.assert_array_equal(
        cache.image(cache.cases[1].name), nib.Nifti1Image.from_filename(tmp_path / "in" / image.format(1)).get_fdata()[None]
    )
    assert prepare([], cache_dir, pairs=pairs)[0].status == "fresh"
    assert len(survey_pairs(pairs)[0].unlabelled) == 1


def test_values_without_names_are_organs_by_number(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, "scans/p{}.nii", "masks/p{}.nii")
    dataset, _ = survey_pairs(Pairs("mine", pairs.images, pairs.labels, ("MR",)))
    assert dataset.labels == {1: "label 1", 2: "label 2"}


def test_the_channels_of_a_pair_may_be_files(tmp_path: Path, cache_dir: Path) -> None:
    for n in range(3):
        for c in range(2):
            scan(tmp_path / f"scans/p{n}_000{c}.nii.gz", 10 * n + c)
        label(tmp_path / f"masks/p{n}.nii.gz", 1)
    (row,) = prepare([], cache_dir, pairs=Pairs("mine", tmp_path / "scans", tmp_path / "masks", ("T1", "FLAIR")))
    assert (row.cases, row.modality, row.channel_names) == (3, ("MR", "MR"), ("T1", "FLAIR"))


def test_a_series_of_dicom_pairs_by_the_name_of_its_folder(tmp_path: Path, cache_dir: Path) -> None:
    pytest.importorskip("pydicom")
    from metanas_med.data.volumes import write_label

    for n in range(2):
        folder = write_series(tmp_path / f"scans/p{n}", np.random.default_rng(n).integers(0, 900, (5, 7, 9)).astype(np.int16))
        found = np.zeros((9, 7, 5), np.uint8)
        found[2:4, 2:4, 2:4] = 1
        (tmp_path / "masks").mkdir(exist_ok=True)
        write_label(tmp_path / f"masks/p{n}.nii.gz", found, folder)
    (row,) = prepare([], cache_dir, pairs=Pairs("mine", tmp_path / "scans", tmp_path / "masks", ("CT",)))
    assert (row.cases, row.bad) == (2, ())


def make_bids(root: Path, table: bool = True, sessions: bool = False, suffix: str = "T1w") -> Path:
    root.mkdir(parents=True)
    (root / "dataset_description.json").write_text("{}")
    (root / "participants.tsv").write_text("participant_id\tage\n" + "".join(f"sub-{n:02d}\t{n}\n" for n in range(1, 4)))
    for n in range(1, 4):
        for session in ("ses-a_", "ses-b_") if sessions else ("",):
            folder = f"sub-{n:02d}/{session.rstrip('_')}/anat"
            name = f"sub-{n:02d}_{session}"
            scan(root / folder / f"{name}{suffix}.nii.gz", 2 * n + ("b" in session))
            label(root / "derivatives/hand" / folder / f"{name}desc-hand_dseg.nii.gz", 1, 2)
    if table:
        (root / "derivatives/hand/desc-hand_dseg.tsv").write_text(
            "index\tname\tcolor\n0\tbackground\tx\n1\tliver\tx\n2\ttumour\tx\n"
        )
    return root


@pytest.mark.parametrize("sessions", [False, True])
def test_bids_is_read_by_names(tmp_path: Path, cache_dir: Path, sessions: bool) -> None:
    root = make_bids(tmp_path / "Bids", sessions=sessions)
    scan(root / "sub-01/anat/sub-01_FLAIR.nii.gz")  # another contrast
    (row,) = prepare([root], cache_dir)
    assert (row.cases, row.patients, row.patients_known) == (6 if sessions else 3, 3, True)
    assert (row.labels, row.modality, row.bad) == ({1: "liver", 2: "tumour"}, ("MR",), ())
    cache = open_cache(cache_dir / "Bids.h5")
    assert cache.cases[0].name == ("sub-01_ses-a_T1w" if sessions else "sub-01_T1w") and cache.cases[0].patient == "sub-01"
    assert prepare([root], cache_dir)[0].status == "fresh"
    shutil.rmtree(root / "derivatives/hand/sub-03")
    dataset = read_dataset(root)
    assert len(dataset.unlabelled) == (2 if sessions else 1) and len(dataset.cases) == row.cases - len(dataset.unlabelled)
    scans = survey_scans(root)[0]
    assert (
        len(scans.cases) == row.cases
        and scans.patients_known
        and {c.patient for c in scans.cases} == {f"sub-0{n}" for n in (1, 2, 3)}
    )
    assert {case.patient for case in dataset.unlabelled} == {"sub-03"}
    shutil.rmtree(root / "derivatives")  # nothing is annotated yet
    scan(root / "sub-09/anat/sub-09_T1w.nii.gz")
    scans, problems = survey_scans(root)
    assert len(scans.cases) == row.cases and "does not name sub-09" in problems[0].problem


def test_a_mask_an_organ_becomes_a_label_map(tmp_path: Path, cache_dir: Path) -> None:
    root = make_bids(tmp_path / "Bids", table=False)
    shutil.rmtree(root / "derivatives")
    for n in range(1, 4):
        for place, organ in enumerate(("kidney", "lesion")[: 1 if n == 3 else 2]):
            array = np.zeros(SHAPE, np.uint8)
            array[2 + 3 * place : 4 + 3 * place, 3:6, 2:5] = 1
            save(root / f"derivatives/hand/sub-{n:02d}/anat/sub-{n:02d}_desc-{organ}_mask.nii.gz", array)
    (row,) = prepare([root], cache_dir)
    cache = open_cache(cache_dir / "Bids.h5")
    assert row.labels == {1: "kidney", 2: "lesion"} and [c.label_voxels for c in cache.cases] == [{1: 18, 2: 18}] * 2 + [{1: 18}]
    assert [c.annotated for c in cache.cases] == [None, None, (1,)]  # an organ without a mask is not annotated there
    save(root / "derivatives/hand/sub-01/anat/sub-01_desc-lesion_mask.nii.gz", np.ones(SHAPE, np.uint8))
    with pytest.raises(BadCases, match="18 voxels belong to another mask"):
        prepare([root], cache_dir)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


T1, DSEG = "sub-01/anat/sub-01_T1w.nii.gz", "derivatives/hand/sub-01/anat/sub-01_desc-hand_dseg.nii.gz"
BIDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda r: cut(r / T1), "damaged or not NIfTI|truncated"),
    "truncated label": (lambda r: cut(r / DSEG), "damaged or not NIfTI|truncated"),
    "absent": (lambda r: (r / T1).unlink(), "sub-01_T1w.nii.gz: no such file"),
    "doubled scan": (lambda r: shutil.copy(r / T1, r / "sub-01/anat/sub-01_T1w.nii"), "each a scan of one run"),
    "doubled label": (
        lambda r: shutil.copytree(r / "derivatives/hand/sub-01", r / "derivatives/hand/again/sub-01"),
        "each a label map of one run",
    ),
    "channel": (lambda r: scan(r / T1, 0, (*SHAPE, 2)), "found 2 channels"),
    "grid": (lambda r: scan(r / T1, 0, (10, 12, 9)), "expected the same grid"),
    "another subject's name": (lambda r: scan(r / "sub-01/anat/sub-02_T1w.nii.gz"), "has the name of another subject"),
    "unknown patient": (lambda r: scan(r / "sub-09/anat/sub-09_T1w.nii.gz"), "participants.tsv: does not name sub-09"),
    "unknown label": (lambda r: label(r / DSEG, 7), r"unknown label values \[7\]"),
}


@pytest.mark.parametrize("kind", BIDS)
def test_bad_cases_of_bids_are_listed(tmp_path: Path, cache_dir: Path, kind: str) -> None:
    root = make_bids(tmp_path / "Bids")
    spoil, expected = BIDS[kind]
    spoil(root)
    with pytest.raises(BadCases, match=expected) as caught:
        prepare([root], cache_dir)
    assert all(row.case for row in caught.value.rows) and not list(cache_dir.glob("*.h5"))
    (row,) = prepare([root], cache_dir, skip_bad=True)
    assert row.cases >= 2 and row.bad == caught.value.rows


def test_a_bids_folder_that_cannot_be_read_says_what_is_absent(tmp_path: Path) -> None:
    root = make_bids(tmp_path / "Bids", table=False)
    with pytest.raises(DataError, match="no table names its values; expected sub-01_desc-hand_dseg.tsv"):
        survey_dataset(root)
    table = root / "derivatives/hand/desc-hand_dseg.tsv"
    table.write_text("index\tlabel\n1\tx\n")
    with pytest.raises(DataError, match="under 'index' and texts under 'name'"):
        survey_dataset(root)
    table.write_text("index\tname\n1\tx\n1\ty\n")
    with pytest.raises(DataError, match="value 1 is 'y', elsewhere 'x'"):
        survey_dataset(root)
    shutil.rmtree(root / "derivatives")
    with pytest.raises(DataError, match="found no label map; expected derivatives"):
        survey_dataset(root)
    (root / "participants.tsv").write_text("name\nsub-01\n")
    label(root / DSEG, 1).with_name("sub-01_desc-hand_dseg.tsv").write_text("index\tname\n1\tx\n")
    with pytest.raises(DataError, match="no column participant_id"):
        survey_dataset(root)


PAIRS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda r: cut(r / "scans/p1.nii.gz"), "p1.*(damaged or not NIfTI|truncated)"),
    "absent": (lambda r: (r / "scans/p1.nii.gz").unlink(), "p1.*no such file"),
    "doubled": (lambda r: shutil.copy(r / "scans/p1.nii.gz", r / "scans/p1.mha"), "p1.*found p1.mha and p1.nii.gz"),
    "doubled label": (lambda r: label(r / "masks/p1_seg.nii.gz", 1), "p1.*label maps of one scan"),
    "mixed": (lambda r: shutil.copy(r / "masks/p1.nii.gz", r / "scans/p1.nii.gz"), "p1.*label map"),
    "channel": (lambda r: scan(r / "scans/p1.nii.gz", 0, (*SHAPE, 2)), "p1.*found 2 channels"),
    "grid": (lambda r: scan(r / "scans/p1.nii.gz", 0, (10, 12, 9)), "p1.*expected the same grid"),
    "place": (
        lambda r: save(r / "scans/p1.nii.gz", np.arange(960, dtype=np.int16).reshape(SHAPE), np.diag([1.0, 1, 3, 1])),
        "p1.*mm",
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_bad_pairs_are_listed_and_nothing_is_written(
    tmp_path: Path, cache_dir: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    make_pairs(tmp_path, "scans/p{}.nii.gz", "masks/p{}.nii.gz")
    spoil, expected = PAIRS[kind]
    spoil(tmp_path)
    cut(tmp_path / "masks/p0.nii.gz")  # a second bad case, which must be listed as well
    command = ["prepare", "--images", str(tmp_path / "scans"), "--labels", str(tmp_path / "masks"), "--modality", "CT"]
    command += ["--name", "mine", "--organs", "1=liver,2=tumour", "--cache", str(cache_dir)]
    assert main(command) == 2
    out, err = capsys.readouterr()
    shown = " ".join((out + err).split())
    assert "bad cases" in shown and "2 problem(s) in the data; nothing was written" in shown
    assert re.search(expected, shown) and "p0.nii.gz" in shown
    assert not list(cache_dir.glob("*"))
    assert main([*command, "--skip-bad"]) == 0 and len(open_cache(cache_dir / "mine.h5").cases) == 1


def test_options_of_pairs_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = make_pairs(tmp_path, "scans/p{}.nii.gz", "masks/p{}.nii.gz")
    own = ["--images", str(pairs.images), "--labels", str(pairs.labels)]
    for arguments, expected in (
        ([], "nothing to prepare"),
        (own, "plain pairs also need --modality"),
        ([*own, "--modality", "CT", str(tmp_path)], "Give one of the two"),
        ([*own, "--modality", "CT", "--organs", "liver"], "found 'liver', expected a label value"),
        ([*own, "--modality", "CT", "--organs", "1=a,1=b"], "named twice"),
        ([*own, "--modality", "CT", "--name", "../x"], "expected the name of a file"),
        (["--images", str(tmp_path / "no"), "--labels", str(pairs.labels), "--modality", "CT", "--name", "m"], "no such folder"),
    ):
        assert main(["prepare", *arguments, "--cache", str(tmp_path / "cache")]) == 2
        out, err = capsys.readouterr()
        assert expected in " ".join((out + err).split()) and not (tmp_path / "cache").exists()
    label(tmp_path / "others/q.nii.gz", 1)
    with pytest.raises(DataError, match="no two of one name"):
        survey_pairs(Pairs("m", pairs.images, tmp_path / "others", ("CT",)))


def test_prepare_draws_a_page_and_fits_80_columns(
    tmp_path: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    make_pairs(tmp_path, "scans/p{}.nii.gz", "masks/p{}.nii.gz", 23)
    command = [
        "prepare",
        "--images",
        str(tmp_path / "scans"),
        "--labels",
        str(tmp_path / "masks"),
        "--modality",
        "CT",
        "--picture",
    ]
    assert main([*command, "--name", "mine", "--cache", str(cache_dir)]) == 0
    out = capsys.readouterr().out
    table = [line for line in out.splitlines() if line[:1] in "┃│"]
    assert table and all(len(line) <= 80 for line in out.splitlines() if "cache" not in line and "drew" not in line)
    assert re.search(r"23 \(one", out) and "10 x 12" in out
    page = cache_dir / "mine.png"
    assert page.read_bytes()[:4] == b"\x89PNG" and page.stat().st_size < 300 * 1024 and f"drew {page}" in " ".join(out.split())


def test_the_page_outlines_every_organ_and_hatches_ignored_voxels(tmp_path: Path, cache_dir: Path, monkeypatch: Any) -> None:
    from matplotlib.figure import Figure

    from metanas_med.report import thumbnails

    kept: list[Figure] = []
    monkeypatch.setattr(thumbnails, "save_figure", lambda figure, path: kept.append(figure))
    pairs = make_pairs(tmp_path, "scans/p{}.nii.gz", "masks/p{}.nii.gz", 3)
    array = np.zeros(SHAPE, np.uint8)
    array[2:4, 3:6, 2:5], array[8:] = 1, 9
    save(tmp_path / "masks/p2.nii.gz", array)
    prepare([], cache_dir, pairs=Pairs("mine", pairs.images, pairs.labels, ("CT",), ((1, "liver"), (2, "tumour"), (9, "ignore"))))
    data: CachedDataset = open_cache(cache_dir / "mine.h5")
    assert data.ignore == 9 and data.labels == {1: "liver", 2: "tumour"}
    thumbnails.draw_thumbnails(tmp_path / "x.png", data)
    first, _, last = kept[0].axes
    hatched: Any = last.collections[1]
    assert first.get_title() == "p0\nZ = 2, 2 organ(s)"
    boxes = [c.get_paths()[0].get_extents().bounds for c in first.collections]  # x, y, width, height of the outlines
    assert boxes == [(1.5, 2.5, 2.0, 3.0), (3.5, 2.5, 2.0, 3.0)]
    assert len(last.collections) == 2 and hatched.hatches == ["////"]
