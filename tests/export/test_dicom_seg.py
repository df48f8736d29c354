"""DICOM segmentations: read back equal, frame by frame, with the codes of the card, on series in several orientations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.cli import main
from metanas_med.data.volumes import read_image
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.scan_files import ScanFiles
from metanas_med.errors import DataError
from metanas_med.export.dicom_seg import DicomSegWriter, Segment, find_code

from ..data.series import AXIAL, OBLIQUE, SAGITTAL, write_series

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

SEGMENTS = [
    Segment(3, "left", "64033007", "Kidney"),
    Segment(7, "right", "10200004", "Liver"),
    Segment(9, "none", "78961009", "Spleen"),
]
#: tags that a segmentation copies from its source images
STUDY: dict[str, Any] = {
    "PatientName": "Doe^Jane",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "StudyID": "1",
    "StudyDate": "20260101",
    "StudyTime": "120000",
    "AccessionNumber": "1",
    "ReferringPhysicianName": "",
    "Manufacturer": "m",
    "SeriesNumber": 1,
}


@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE, SAGITTAL])
def test_segmentations_are_read_back_frame_by_frame(tmp_path: Path, axes: Any) -> None:
    random = np.random.default_rng(0)
    folder = write_series(tmp_path / "series", random.integers(0, 2000, (5, 6, 7)), axes, **STUDY)
    array, _ = read_image(folder)
    labels = random.choice(np.array([0, 3, 7], np.uint8), array.shape[1:])
    labels[..., 2] = 0  # a slice without an organ
    writer = DicomSegWriter(SEGMENTS, "test")
    writer.write(ScanFiles((folder,), folder), labels, tmp_path / "seg.dcm")
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    # slices by the unique identifiers of their files, in the order of their positions
    headers = sorted(
        (pydicom.dcmread(f) for f in folder.iterdir()),
        key=lambda h: np.dot(np.array(h.ImagePositionPatient, float), np.cross(axes[:3], axes[3:])),
    )
    uids = [header.SOPInstanceUID for header in headers]
    for number, segment in enumerate(SEGMENTS, start=1):
        found = seg.get_pixels_by_source_instance(uids, segment_numbers=[number], assert_missing_frames_are_empty=True)[..., 0]
        np.testing.assert_array_equal(np.moveaxis(found, 0, -1).swapaxes(0, 1), labels == segment.value)
        described = seg.get_segment_description(number)
        assert (described.segmented_property_type.value, described.segmented_property_type.meaning) == (
            segment.code,
            segment.meaning,
        )
        assert described.segment_label == segment.name and described.algorithm_identification.name == "test"
    assert str(seg.PatientName) == "Doe^Jane" and seg.FrameOfReferenceUID == "1.2.3.7"


def test_a_map_without_organs_gives_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_series(tmp_path / "series", np.zeros((3, 4, 5), int), **STUDY)
    DicomSegWriter(SEGMENTS, "test").write(ScanFiles((folder,), folder), np.zeros((5, 4, 3), np.uint8), tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists() and "no organ was found" in caplog.text


def test_codes_are_found_by_number_and_by_keyword() -> None:
    card = Path("model/card.yaml")
    assert find_code("a", "10200004", card) == ("10200004", "Liver") == find_code("a", "liver", card)
    assert find_code("x", "Bladder", card)[0] == "89837001"
    with pytest.raises(Exception, match=r"organ 'liver': it has no SNOMED CT code. Add it to model/card.yaml.*Liver: 10200004"):
        find_code("liver", "", card)
    with pytest.raises(Exception, match="'Livre' is no SNOMED CT code .*Near ones"):
        find_code("liver", "Livre", card)


def test_only_folders_of_dicom_have_a_segmentation(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs the folder of a DICOM series"):
        DicomSegWriter(SEGMENTS, "test").check([ScanFiles((tmp_path / "a.nii.gz",), tmp_path / "a.nii.gz")])


def test_predict_writes_it_from_the_card(
    tiny_run: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path / "cache"))

    def refused(*given: Any) -> str:
        assert main([str(part) for part in given]) == 2
        return " ".join(capsys.readouterr().err.split())

    data = Path(shutil.copytree(phantoms / "Phantom06_Pair", tmp_path / "Pair"))
    model = tmp_path / "model"
    s = AdaptSettings(organ="left", shots=2, steps=3, evaluate=0, device="cpu", precision="float32", images=False)
    adapt(tiny_run, data, model, s)
    scan: Any = nib.load(sorted((data / "imagesTr").iterdir())[0])  # type: ignore[attr-defined]
    pixels = np.moveaxis(np.asarray(scan.dataobj), -1, 0).swapaxes(1, 2)
    series = write_series(tmp_path / "series", np.rint(pixels).astype(int), RescaleIntercept=0, **STUDY)
    given = ["predict", model, series, "--dicom-seg", "--any-intensities", "--device", "cpu", "--out", tmp_path / "out"]
    assert "organ 'left': it has no SNOMED CT code" in refused(*given)
    assert not (tmp_path / "out").exists()
    (model / "card.yaml").write_text("snomed: {left: Kidney}\n")
    assert main([str(part) for part in given]) == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    labels = np.asarray(nib.load(tmp_path / "out/series.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert written == (["series.dcm", "series.nii.gz"] if labels.any() else ["series.nii.gz"])
    if labels.any():
        seg = highdicom.seg.segread(tmp_path / "out/series.dcm")
        assert int(seg.pixel_array.sum()) == int((labels > 0).sum())
        assert "already exists" in refused(*given)
    # a code of the data set's card comes with the model
    (data / "card.yaml").write_text("dataset: Pair\ngroup: pair\nmodality: MR\nsnomed: {left: 64033007}\n")
    adapt(tiny_run, data, tmp_path / "second", s)
    assert json.loads((tmp_path / "second/model.json").read_text())["snomed"] == {"left": "64033007"}
