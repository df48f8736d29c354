"""DICOM series made for tests: one file a slice, with the tags that positions and values need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
#: rotated about all three axes: rows and columns are orthogonal unit vectors
OBLIQUE = (0.8660254038, 0.5, 0.0, -0.4698463104, 0.8137976814, 0.3420201433)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def write_slice(path: Path, pixels: np.ndarray, position: Any, number: int, **tags: Any) -> Path:
    """Return ``path`` after writing a slice (rows, columns) int16 of a CT; ``tags`` replace tags, None removes one."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(CT), UID(f"1.2.3.4.{number + 1}")
    meta.TransferSyntaxUID = UID(tags.pop("syntax", EXPLICIT))
    own = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    own.SOPClassUID, own.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    known: dict[str, Any] = {
        "PatientID": "p1",
        "Modality": "CT",
        "SeriesInstanceUID": "1.2.3.5",
        "StudyInstanceUID": "1.2.3.6",
        "FrameOfReferenceUID": "1.2.3.7",
        "InstanceNumber": number + 1,
        "ImagePositionPatient": [round(float(x), 8) for x in position],
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": [0.7, 1.1],
        "SliceThickness": 3.0,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    for name, value in (known | tags).items():
        if value is not None:
            setattr(own, name, value)
    own.PixelData = tags.get("PixelData", pixels.astype("<i2").tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    own.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path, pixels: np.ndarray, axes: Any = AXIAL, gap: float = 2.5, shift: Any = (0, 0, 0), **tags: Any
) -> Path:
    """Return ``folder`` after writing slices (slices, rows, columns); ``shift`` moves each slice against the last (mm)."""
    normal = np.cross(axes[:3], axes[3:])
    for number, part in enumerate(pixels):
        position = np.array([-20.0, 31.5, 7.25]) + number * (gap * normal + np.array(shift))
        name = f"IM{(number * 7) % 100:03d}.dcm"  # names in another order than positions
        write_slice(folder / name, part, position, number, ImageOrientationPatient=list(axes), **tags)
    return folder
