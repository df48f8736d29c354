"""DICOM segmentations of predicted label maps, by highdicom (DICOM PS3.3 A.51); codes of organs are SNOMED CT.

A segmentation carries the patient's name, identifiers and study of its source images, as the standard demands.
"""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..data.dicom import is_dicom_folder, read_headers
from ..engine.model import Model
from ..engine.scan_files import ScanFiles
from ..errors import ConfigError, DataError
from ..files import atomic_path
from ..parse import Unreadable, read_yaml

log = logging.getLogger(__name__)

#: near codes that an error names
_NEAR = 4


@dataclass(frozen=True)
class Segment:
    """One organ of a segmentation: its label value, its name, and its SNOMED CT code with what the code means."""

    value: int
    name: str
    code: str
    meaning: str


class DicomSegWriter:
    """Writes ``NAME.dcm`` beside a label map: one binary segment an organ, in the frames of the source images.

    Memory: one byte a voxel and organ.
    """

    def __init__(self, segments: Sequence[Segment], algorithm: str) -> None:
        self.segments, self.algorithm = tuple(segments), algorithm

    def check(self, scans: Sequence[ScanFiles]) -> None:
        """Raise DataError for a scan that is no folder of DICOM files."""
        for scan in scans:
            if not is_dicom_folder(scan.path):
                raise DataError(
                    f"{scan.path}: --dicom-seg needs the folder of a DICOM series, whose patient and study the file must name. "
                    "Give the folder, or leave --dicom-seg out"
                )

    def file(self, target: Path) -> Path:
        """Return the file beside a label map's."""
        return target.with_name(target.name.removesuffix(".gz").removesuffix(".nii") + ".dcm")

    def write(self, scan: ScanFiles, labels: np.ndarray, path: Path) -> None:
        """Write the segmentation of ``labels`` (X, Y, Z): X along a row, Y down a column, Z through the slices of the series.

        A label map without any organ gives no file, because a segmentation needs a frame; a warning says so.
        """
        import highdicom
        from pydicom.sr.codedict import codes
        from pydicom.sr.coding import Code
        from pydicom.uid import generate_uid

        if not labels.any():
            log.warning("%s: no organ was found, so there is no DICOM segmentation of it", scan.path)
            return
        family = codes.DCM.ArtificialIntelligence  # type: ignore[attr-defined]
        algorithm = highdicom.AlgorithmIdentificationSequence(name=self.algorithm, family=family, version=__version__)
        described = [
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=segment.name[:64],
                segmented_property_category=codes.SCT.AnatomicalStructure,  # type: ignore[attr-defined]
                segmented_property_type=Code(segment.code, "SCT", segment.meaning[:64]),
                algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
            for number, segment in enumerate(self.segments, start=1)
        ]
        frames = np.moveaxis(labels, -1, 0).swapaxes(1, 2)  # slices, rows, columns
        masks = np.stack([frames == segment.value for segment in self.segments], axis=-1).astype(np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that the source images have and keep
            found = highdicom.seg.Segmentation(
                source_images=read_headers(scan.path),
                pixel_array=masks,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=described,
                series_instance_uid=generate_uid(),
                series_number=900,
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer="metanas_med",
                manufacturer_model_name="metanas_med",
                software_versions=__version__,
                device_serial_number="0",
                series_description=f"{self.algorithm}, research only"[:64],
            )
            with atomic_path(path) as temporary:
                found.save_as(temporary)


def dicom_seg_writer(model: Model, folder: Path | str) -> DicomSegWriter:
    """Return the writer of a model's organs, with the SNOMED CT codes of ``folder``/card.yaml, else those of the model.

    Raises ConfigError for an organ without a code, or with a code that is none; it names near ones. Raises DataError where the
    extra ``dicom`` is not installed.
    """
    try:
        import highdicom  # noqa: F401
        from pydicom.sr.codedict import codes  # noqa: F401
    except ImportError as error:
        raise DataError("--dicom-seg needs pydicom and highdicom; run: pip install 'metanas-med[dicom]'") from error
    card = Path(folder) / "card.yaml"
    given = {**model.snomed, **_codes_of(card)}
    segments = []
    for value, name in zip(model.label_values[1:].tolist(), model.task.names, strict=True):
        code, meaning = find_code(name, given.get(name, ""), card)
        segments.append(Segment(value, name, code, meaning))
    return DicomSegWriter(segments, f"metanas_med {'+'.join(model.task.names)}"[:64])


def find_code(organ: str, given: str, card: Path) -> tuple[str, str]:
    """Return the SNOMED CT code of ``given``, a code or a keyword such as ``Liver``, and its meaning; ConfigError for none."""
    from pydicom.sr._concepts_dict import concepts

    known: Mapping[str, Mapping[str, Any]] = concepts["SCT"]
    by_keyword = {keyword.casefold(): keyword for keyword in known}
    if given and (keyword := by_keyword.get(given.replace(" ", "").casefold())):
        code = next(iter(known[keyword]))
        return code, str(known[keyword][code][0])
    if given:
        for found in known.values():
            if given in found:
                return given, str(found[given][0])
    near = "; ".join(f"{keyword}: {next(iter(known[keyword]))}" for keyword in _near(given or organ, by_keyword))
    what = f"{given!r} is no SNOMED CT code that is known here" if given else "it has no SNOMED CT code"
    raise ConfigError(
        f"organ {organ!r}: {what}. Add it to {card}, 'snomed: {{{organ}: CODE}}'. Near ones: {near or 'none by name'}"
    )


def _near(word: str, by_keyword: Mapping[str, str]) -> list[str]:
    """Return keywords like ``word``: those that contain it, the shortest first, then those of similar letters."""
    word = "".join(letter for letter in word.casefold() if letter.isalnum())
    inside = sorted((key for key in by_keyword if word and word in key), key=len)
    alike = difflib.get_close_matches(word, by_keyword, n=_NEAR, cutoff=0.6)
    return [by_keyword[key] for key in dict.fromkeys([*inside[:_NEAR], *alike])][:_NEAR]


def _codes_of(card: Path) -> dict[str, str]:
    if not card.is_file():
        return {}
    try:
        tree = read_yaml(card)
    except (Unreadable, OSError) as error:
        raise ConfigError(f"cannot read {card}: {error}") from error
    found = tree.get("snomed", {}) if isinstance(tree, dict) else None
    if not isinstance(found, dict):
        raise ConfigError(f"{card}: snomed: expected a map from organ to code, such as {{liver: 10200004}}")
    return {str(organ): str(code) for organ, code in found.items()}
