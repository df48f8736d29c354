"""Reading the cache: one HDF5 file per data set, opened lazily and once per process.

Layout (version 2): ``meta`` is JSON in bytes, ``images/<case>`` (C, X, Y, Z) in the source's type,
``labels/<case>`` (X, Y, Z) uint8. X, Y, Z are the canonical (closest to RAS+) axes in native spacing. Chunks carry checksums.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import DataError
from ..files import CACHE_FILES
from ..parse import brief, no_file, parse_json
from .annotated import Annotated, annotates
from .cache_check import check_meta, plain_array
from .dataset import BadCase
from .intensities import ScanProfile

log = logging.getLogger(__name__)

FORMAT = 2
Slices = Sequence[slice]


@dataclass(frozen=True, eq=False)
class CachedCase:
    """What the cache knows about one scan without reading its voxels."""

    name: str
    patient: str  #: scans of the same voxels have the same patient
    shape: tuple[int, int, int]  #: X, Y, Z, voxels
    spacing: tuple[float, float, float]  #: mm
    affine: np.ndarray  #: (4, 4) float64, canonical voxel index -> mm
    content_box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  #: voxels, half-open; made from the image alone
    num_channels: int
    label_voxels: dict[int, int]  #: voxels by label value, background left out
    notes: tuple[str, ...]  #: what the headers left open, and what was assumed; empty for older caches
    content_hash: str  #: SHA-256 of the image's voxels; does not depend on the file, its name or its labels
    profile: ScanProfile | None = None  #: of the image's intensities; None in older caches
    annotated: Annotated = None  #: label values of the organs that are annotated in it; None: all

    def annotates(self, values: Sequence[int]) -> bool:
        """Return whether all label ``values`` are annotated in this scan."""
        return annotates(self.annotated, values)


class CachedDataset:
    """A data set in the cache; it can be sent to other processes, and each opens the file itself."""

    def __init__(self, path: Path, meta: dict[str, Any], stamp: str = "") -> None:
        self.path = path
        self.meta = meta
        self._stamp = stamp  #: hash of the file's metadata; if empty, a replaced file is not noticed
        self.name: str = meta["name"]
        self.group: str = meta["group"]
        self.related: tuple[str, ...] = tuple(meta["related"])
        self.modality: tuple[str, ...] = tuple(meta["modality"])
        #: one per channel, as written in dataset.json; empty for plain folders and older caches
        self.channel_names: tuple[str, ...] = tuple(meta.get("channel_names", ()))
        self.labels: dict[int, str] = {int(value): name for value, name in meta["labels"].items()}
        #: the names in dataset.json; a card may rename the organs
        self.given_labels: dict[int, str] = {int(value): name for value, name in meta["given_labels"].items()}
        #: the label value of voxels that count nowhere; None: there is none
        self.ignore: int | None = meta.get("ignore")
        #: SNOMED CT codes or keywords by organ name
        self.snomed: dict[str, str] = dict(meta.get("snomed", {}))
        #: label values by the name of their union
        self.regions: dict[str, tuple[int, ...]] = {name: tuple(values) for name, values in meta.get("regions", {}).items()}
        #: folds of nnU-Net: names of cases under "train" and "val"
        self.splits: tuple[dict[str, tuple[str, ...]], ...] = tuple(
            {part: tuple(names) for part, names in fold.items()} for fold in meta.get("splits", ())
        )
        self.patients_known: bool = meta["patients_known"]
        patients = patients_of(meta["cases"])
        self.cases: tuple[CachedCase, ...] = tuple(_case(entry, patients) for entry in meta["cases"])
        #: problems of the folder that the file was made from: cases that are not in it, and organs without a voxel
        self.set_aside: tuple[BadCase, ...] = tuple(BadCase(**row) for row in meta.get("set_aside", ()))
        self._opened: tuple[int, h5py.File] | None = None
        self._checked: set[tuple[str, str]] = set()  #: the arrays of the open file that were checked

    def image(self, name: str) -> np.ndarray:
        """Return the whole image (C, X, Y, Z) float32, raw intensities."""
        return self.image_region(name, (slice(None),) * 3)

    def lazy_image(self, name: str) -> LazyImage:
        """Return an image whose channels are read on access."""
        return LazyImage(self, name)

    def label(self, name: str) -> np.ndarray:
        """Return the whole label map (X, Y, Z) uint8."""
        return self.label_region(name, (slice(None),) * 3)

    def image_region(self, name: str, slices: Slices) -> np.ndarray:
        """Return a region (C, x, y, z) float32; ``slices`` holds three slices in voxels, without negative steps."""
        return self._region("images", name, (slice(None), *slices)).astype(np.float32, copy=False)

    def label_region(self, name: str, slices: Slices) -> np.ndarray:
        """Return a region (x, y, z) uint8 of the label map."""
        return self._region("labels", name, tuple(slices))

    def channel(self, name: str, channel: int, slices: Slices | None = None) -> np.ndarray:
        """Return one channel (X, Y, Z), or a region of it, in the source's type if that has at most two bytes, else float32."""
        values = self._region("images", name, (channel, *(slices or (slice(None),) * 3)))
        return values if values.dtype.itemsize <= 2 else values.astype(np.float32, copy=False)

    def _region(self, kind: str, name: str, slices: tuple[slice | int, ...]) -> np.ndarray:
        case = next((case for case in self.cases if case.name == name), None)
        if case is None:
            raise DataError(f"{self.name}: no case {name!r} in {self.path}; it has {len(self.cases)} cases")
        try:
            file = self._file()
            if (kind, name) not in self._checked:
                expected = case.shape if kind == "labels" else (case.num_channels, *case.shape)
                plain_array(file, f"{kind}/{name}", "u" if kind == "labels" else "iuf", expected)
                self._checked.add((kind, name))
            return file[kind][name][slices]  # type: ignore[index, return-value]
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise _damaged(self.path, error) from error

    def _file(self) -> h5py.File:
        # a handle must not be shared with a forked child: HDF5 keeps state and a file offset in it
        if self._opened is None or self._opened[0] != os.getpid():
            file = h5py.File(self.path, "r", locking=False)
            if self._stamp and self._stamp != _read_meta(file)[1]:
                file.close()
                raise DataError(f"{self.path} was rebuilt while it was in use; start again")
            self._opened, self._checked = (os.getpid(), file), set()
        return self._opened[1]

    def close(self) -> None:
        """Close the file of this process; the next read opens it again."""
        if self._opened is not None and self._opened[0] == os.getpid():
            self._opened[1].close()
        self._opened = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __repr__(self) -> str:
        return f"CachedDataset({self.name!r}, {len(self.cases)} cases, {len(self.labels)} organs)"


class LazyImage:
    """An image (C, X, Y, Z) that stays on the disk: ``image[c]`` reads one channel, ``image[c, x, y, z]`` a box of it by slices.

    Every access reads the file again.
    """

    def __init__(self, dataset: CachedDataset, name: str) -> None:
        case = next((case for case in dataset.cases if case.name == name), None)
        if case is None:
            raise DataError(f"{dataset.name}: no case {name!r} in {dataset.path}; it has {len(dataset.cases)} cases")
        self._dataset, self._name = dataset, name
        self.shape: tuple[int, ...] = (case.num_channels, *case.shape)

    def __getitem__(self, place: int | tuple[int, slice, slice, slice], /) -> np.ndarray:
        channel, *box = place if isinstance(place, tuple) else (place,)
        return self._dataset.channel(self._name, channel, box or None)


def open_cache(path: Path | str) -> CachedDataset:
    """Return the data set of one cache file; raises DataError if it is missing, damaged or of another version."""
    path = Path(path)
    if reason := no_file(path):
        reason = reason.replace("no such file", "no such cache file")
        raise DataError(f"{path}: {reason}; make it with 'metanas-med prepare DATASET --cache {path.parent}'")
    try:
        with h5py.File(path, "r", locking=False) as file:
            version = file.attrs.get("format")
            if not isinstance(version, int | np.integer) or version != FORMAT:
                found = int(version) if isinstance(version, np.integer) else brief(version)
                raise DataError(f"{path}: found cache version {found}, expected {FORMAT}; run 'metanas-med prepare' again")
            meta, stamp = _read_meta(file)
        check_meta(meta)
        return CachedDataset(path, meta, stamp)
    except (OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise _damaged(path, error) from error


def _read_meta(file: h5py.File) -> tuple[dict[str, Any], str]:
    content = plain_array(file, "meta", "u")[()].tobytes()
    return parse_json(content.decode(), finite=True), hashlib.sha256(content).hexdigest()


def open_caches(cache_dir: Path | str) -> dict[str, CachedDataset]:
    """Return all data sets of a cache folder by name; raises DataError if there is none.

    Warns of cases that are not in the cache because they could not be used.
    """
    paths = sorted(Path(cache_dir).glob(CACHE_FILES))
    if not paths:
        raise DataError(f"{cache_dir}: no cached data set; make one with 'metanas-med prepare DATASET --cache {cache_dir}'")
    caches: dict[str, CachedDataset] = {}
    for path in paths:
        cache = open_cache(path)
        if cache.name in caches:
            raise DataError(f"{path}: holds the data set {cache.name}, as {caches[cache.name].path} does; remove one of them")
        caches[cache.name] = cache
        if bad := [row for row in cache.set_aside if row.case]:
            more = f", and {len(bad) - 3} more" if len(bad) > 3 else ""
            shown = "; ".join(f"{row.case} ({row.problem})" for row in bad[:3])
            log.warning("%s: %d case(s) are not in the cache: %s%s", cache.name, len(bad), shown, more)
    return caches


def _damaged(path: Path, error: Exception) -> DataError:
    if not path.exists():
        return DataError(f"{path} has vanished; restore it, or run 'metanas-med prepare' again, and then the same command")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: no read permission; change its permissions")
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return DataError(f"{path}: damaged cache file ({reason}); delete it and run 'metanas-med prepare' again")


def patients_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the patient of each case; patients who share a scan, voxel by voxel, are one: the first of them.

    Otherwise a scan that was saved under two names could be learned from and scored.
    """
    leader: dict[str, str] = {}
    owner: dict[str, str] = {}

    def first(patient: str) -> str:
        while leader.setdefault(patient, patient) != patient:
            patient = leader[patient]
        return patient

    for entry in entries:
        one, other = first(owner.setdefault(_content(entry), entry["patient"])), first(entry["patient"])
        order = list(leader)
        leader[max(one, other, key=order.index)] = min(one, other, key=order.index)
    return {entry["name"]: first(entry["patient"]) for entry in entries}


def _content(entry: Mapping[str, Any]) -> str:
    """Return what tells the content of a scan from that of others; constant scans, which show nobody, all differ."""
    constant = len(entry.get("flat_channels", ())) == entry["num_channels"]
    return entry["name"] if constant else entry["content_hash"]


def same_voxels(entries: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the names of cases that hold the same voxels, group by group."""
    groups: dict[str, list[str]] = {}
    for entry in entries:
        groups.setdefault(_content(entry), []).append(entry["name"])
    return [names for names in groups.values() if len(names) > 1]


def _case(entry: dict[str, Any], patients: Mapping[str, str]) -> CachedCase:
    x, y, z = entry["shape"]
    dx, dy, dz = entry["spacing"]
    box_x, box_y, box_z = ((int(low), int(high)) for low, high in entry["content_box"])
    return CachedCase(
        name=entry["name"],
        patient=patients[entry["name"]],
        shape=(x, y, z),
        spacing=(dx, dy, dz),
        affine=np.array(entry["affine"], dtype=np.float64),
        content_box=(box_x, box_y, box_z),
        num_channels=entry["num_channels"],
        label_voxels={int(value): count for value, count in entry["label_voxels"].items()},
        notes=tuple(entry.get("notes", ())),
        content_hash=entry["content_hash"],
        profile=ScanProfile.from_json(entry["profile"]) if "profile" in entry else None,
        annotated=tuple(entry["annotated"]) if "annotated" in entry else None,  # None in older caches, too
    )
