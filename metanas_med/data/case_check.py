"""The full check of one case: its scan and label in canonical axes, or what is wrong with them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import sha256_file
from .annotated import refuse_unannotated
from .box import bounding_box
from .dataset import Case, Dataset
from .intensities import border_value, profile_of
from .options import STRICT, ReadOptions
from .orientation import to_canonical
from .pairing import place_label
from .scans import refuse_label_map
from .volumes import parts_of, read_image, read_label, read_masks, read_notes


@dataclass(frozen=True)
class CheckedCase:
    """A case that passed: its arrays in canonical axes, and its entry in the cache file's metadata."""

    image: np.ndarray
    label: np.ndarray | None  #: None for an unlabelled scan
    entry: dict[str, Any]


def check_case(case: Case, dataset: Dataset, options: ReadOptions = STRICT) -> CheckedCase | DataError:
    """Return the arrays and the metadata entry of a case, or the error that makes it unusable."""
    try:
        stat = file_stats(case)  # read before the voxels: a file that changes in between counts as changed next time
        image, affine = read_image(case.images)
        notes = list(read_notes(case.images))
        label, counts = None, np.zeros(256, dtype=np.int64)
        if case.label is None:
            refuse_label_map(case.image, image)
        else:
            label, label_affine = read_masks(case.masks) if case.masks else read_label(case.label)
            x, y, z = image.shape[1:]
            placed = place_label(case.image, (x, y, z), affine, case.label, label, label_affine, options.labels_like_images)
            label = placed.labels
            notes += [placed.note] if placed.note else []
            _refuse_own_label(case.image, image, case.label, label)
            for plane in np.moveaxis(label, -1, 0):  # one plane at a time: counting needs eight bytes per voxel
                counts += np.bincount(plane.ravel("K"), minlength=256)
            known = {0, *dataset.labels, dataset.ignore}
            unknown = [int(value) for value in np.flatnonzero(counts) if value not in known]
            if unknown:
                raise DataError(f"{case.label}: found unknown label values {unknown[:8]}, expected 0 or {list(dataset.labels)}")
            refuse_unannotated(case.label, counts, case.annotated, dataset.labels)
        if len(image) != len(dataset.modality):
            raise DataError(f"{case.image}: found {len(image)} channels, dataset.json's modality has {len(dataset.modality)}")
        if label is not None and dataset.ignore is not None and counts[dataset.ignore]:
            image = without_ignored(image, label == dataset.ignore)
            notes.append(f"{counts[dataset.ignore]} voxels are ignored: they count nowhere, and the image is constant there")
        image, canonical, orientation = to_canonical(image, affine)
        label = None if label is None else orientation.apply(label)
        entry = {
            "name": case.name,
            "patient": case.patient,
            "shape": list(image.shape[1:]),
            "spacing": np.linalg.norm(canonical[:3, :3], axis=0).tolist(),
            "affine": canonical.tolist(),
            "content_box": content_box(image),
            "num_channels": len(image),
            "flat_channels": [c for c, channel in enumerate(image) if channel.min() == channel.max()],
            "label_voxels": {str(value): int(counts[value]) for value in dataset.labels if counts[value]},
            "content_hash": content_hash(image),
            "profile": profile_of(image).to_json(),
            "source_hash": source_hash(case),
            "stat": stat,
            "notes": notes,
            **({} if case.annotated is None else {"annotated": list(case.annotated)}),
        }
        return CheckedCase(image, label, entry)
    except DataError as error:
        return error
    except OSError as error:
        return DataError(f"{error.filename or case.image}: cannot be read ({error.strerror})")


def without_ignored(image: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Return a copy of an image (C, X, Y, Z) that no ``ignored`` voxel (X, Y, Z) influences: each has its channel's lowest value.

    The lowest value of the other voxels stands for air in most modalities. Raises DataError if all voxels are ignored.
    """
    if ignored.all():
        raise DataError("every voxel of the label map has the value to ignore; annotate some, or remove the case")
    image = image.copy()
    for channel in image:
        channel[ignored] = channel[~ignored].min()
    return image


def _refuse_own_label(path: Path, image: np.ndarray, label_path: Path, label: np.ndarray) -> None:
    """Raise DataError if an image (C, X, Y, Z) is its own label map (X, Y, Z), or another label map."""
    advice = "Give the scan as 'image' of this case in dataset.json."
    if path.samefile(label_path):
        raise DataError(f"{path}: image and label are the same file, a label map. {advice}")
    for number, channel in enumerate(image):
        if _follows(channel, label):
            which = f"channel {number}" if len(image) > 1 else "the image"
            raise DataError(f"{path}: {which} shows nothing but the label map {label_path.name}. {advice}")
    refuse_label_map(path, image, advice)


def _follows(channel: np.ndarray, label: np.ndarray) -> bool:
    """Return whether a channel (X, Y, Z) is not constant, but has one value inside each label value."""
    sparse = tuple(slice(None, None, max(1, n // 24)) for n in label.shape)  # tells almost all scans at no cost
    for some, part in ((channel[sparse], label[sparse]), (channel, label)):
        for value in np.unique(part):
            inside = some[part == value]
            if inside.min() != inside.max():
                return False
    return bool(channel.min() != channel.max())


def content_box(image: np.ndarray) -> list[list[int]]:
    """Return the half-open voxel bounds (3, 2) of the content of an image (C, X, Y, Z).

    Content differs, in any channel, from the most frequent value at the border. If there is none, the box is the whole volume.
    """
    differs = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        differs |= channel != border_value(channel)
    return [[part.start, part.stop] for part in bounding_box(differs)]


def content_hash(image: np.ndarray) -> str:
    """Return the SHA-256 of an image (C, X, Y, Z), over its shape and its float32 values.

    A scan that was saved again, or with another data type, has the same hash.
    """
    found = hashlib.sha256(repr(image.shape).encode())
    for channel in image:
        for plane in channel:
            found.update(np.ascontiguousarray(plane, dtype="<f4").tobytes())
    return found.hexdigest()


def file_stats(case: Case) -> list[list[Any]]:
    stats = [(path, path.stat()) for file in case.files for path in parts_of(file)]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def source_hash(case: Case) -> str:
    parts = "".join(sha256_file(path) for file in case.files for path in parts_of(file))
    return hashlib.sha256(parts.encode()).hexdigest()
