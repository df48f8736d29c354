"""Scans without labels: a folder of them or a prepared data set, and a plan that no label decides."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .cached import CachedDataset, open_cache
from .cards import Card, load_card, read_card
from .case_check import content_box
from .dataset import modality_kind
from .nifti import read_geometry, read_image, to_canonical
from .plan import Plan, Triple, ct_intensity, fit_plan

#: voxels that the coarsest level of a network must have to tell anything of a scan
LEAST_COARSE = 8
#: a scan of more planned voxels than this many views is another kind of scan than the others
MOST_VIEWS = 32
#: scans, and voxels of each, that the intensities of CT are taken from
_CT_SCANS, _CT_VOXELS = 20, 30_000


@dataclass(frozen=True)
class Scan:
    """One scan, known by its header; ``read()`` returns it whole: (C, X, Y, Z) float32, canonical axes, raw intensities."""

    name: str
    patient: str
    shape: Triple  #: X, Y, Z, voxels, canonical axes
    spacing: tuple[float, float, float]  #: mm
    num_channels: int
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class SetAside:
    """A scan that cannot be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class UnlabelledScans:
    """The scans of one place, a name each, one a patient where patients are known."""

    name: str  #: the folder's or data set's
    group: str
    related: tuple[str, ...]
    modality: tuple[str, ...]  #: one a channel
    patients_known: bool
    scans: tuple[Scan, ...]
    set_aside: tuple[SetAside, ...]


def unlabelled_scans(place: CachedDataset | Path | str, modality: str | None = None) -> UnlabelledScans:
    """Return the scans of a folder in MSD layout, of a folder of NIfTI files, or of a prepared data set (its ``.h5``, or open).

    Labels are not read. In a folder the scans are those of ``imagesTr``, else of ``imagesTs``, else its own; their headers alone are read.
    Scans whose header cannot be used, whose number of channels is not the usual one, and further scans of a patient (a card tells) are
    set aside. ``modality``: CT, MR, PET or US for all channels, instead of what dataset.json, card or cache say.
    Raises DataError where there is no scan.
    """
    if isinstance(place, CachedDataset):
        return _cached(place, modality)
    place = Path(place)
    if place.suffix == ".h5":
        return _cached(open_cache(place), modality)
    root = Path(os.path.abspath(place))  # "." has a name then
    paths = _nifti_files(root)
    card = read_card(root / "card.yaml") if (root / "card.yaml").is_file() else load_card(root.name)
    scans, aside = [], []
    for path in paths:
        try:
            scans.append(_file_scan(path, card))
        except DataError as error:
            aside.append(SetAside(_stem(path), str(error)))
    given = (modality,) if modality else card.modality if card else _declared(root / "dataset.json")
    group, related = (card.group, card.related) if card else (root.name, ())
    return _usable(root.name, group, related, given, bool(card and card.patient is not None), scans, aside)


def plan_without_labels(scans: Sequence[Scan], modality: Sequence[str], view_voxels: int, levels: int) -> Plan:
    """Return a plan under which a whole scan of median size fits in a view of ``view_voxels``; for CT it reads up to 20 of the scans.

    What ``fit_plan`` takes from the organs' voxels, the range of CT, is taken from the content boxes.
    """
    extents = [np.broadcast_to(np.float32(0), (s.num_channels, *s.shape)) for s in scans]
    # an endless margin around any label is the whole scan
    point = np.ones((1, 1, 1), dtype=np.uint8)
    plan = fit_plan(
        extents, [point] * len(scans), [s.spacing for s in scans], ["MR"] * len(modality),
        view_voxels=view_voxels, margin=math.inf, levels=levels,
    )  # fmt: skip
    channels = [c for c, kind in enumerate(modality) if kind.upper() == "CT"]
    if not channels:
        return plan
    every = -(-len(scans) // _CT_SCANS)
    samples = [s for s in (_content_sample(scan) for scan in scans[::every]) if s is not None]
    if not samples:
        raise DataError(f"{scans[0].name}: damaged, as are the other scans that were read; fetch them again")
    intensities = list(plan.intensities)
    for c in channels:
        intensities[c] = ct_intensity(np.concatenate([s[c] for s in samples]))
    return replace(plan, intensities=tuple(intensities))


def misfit(scan: Scan, plan: Plan, view_voxels: int) -> str:
    """Return why ``scan`` is too small or too large for ``plan``; empty where it is neither."""
    size = plan.shape(scan.shape, scan.spacing)
    halvings = np.prod([list(s) for s in plan.strides], axis=0) if plan.strides else np.ones(3)
    whole = " x ".join(str(n) for n in scan.shape)
    # the view keeps three voxels at the coarsest level along each axis that was halved; a scan must keep two
    short = any(h > 1 and n < 2 * h for n, h in zip(size, halvings, strict=True))
    if short or np.prod(np.ceil(np.divide(size, halvings))) < LEAST_COARSE:
        return f"too small beside the others: {whole} voxels, {_mm(scan)} mm"
    if math.prod(size) > MOST_VIEWS * view_voxels:
        return f"too large beside the others: {whole} voxels, {_mm(scan)} mm"
    return ""


def _mm(scan: Scan) -> str:
    return " x ".join(f"{n * s:.0f}" for n, s in zip(scan.shape, scan.spacing, strict=True))


def _nifti_files(root: Path) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with NIfTI files, a data set in MSD layout or a prepared .h5 file")
    for place in (root / "imagesTr", root / "imagesTs", root):
        found = sorted(p for p in place.glob("*.nii*") if p.name.endswith((".nii", ".nii.gz")) and not p.name.startswith("._"))
        names = Counter(_stem(p) for p in found)
        if twice := [name for name, number in names.items() if number > 1]:
            raise DataError(f"{place}: found {twice[0]} as .nii and as .nii.gz; keep one of them")
        if found:
            return found
    raise DataError(f"{root}: found no scan; expected NIfTI files (.nii, .nii.gz) in it, or in its imagesTr or imagesTs")


def _file_scan(path: Path, card: Card | None) -> Scan:
    shape, affine = read_geometry(path)
    # a view that takes no memory turns as the scan would
    turned, canonical, _ = to_canonical(np.broadcast_to(np.uint8(0), shape[:3]), affine)
    name, (x, y, z) = _stem(path), turned.shape
    dx, dy, dz = (float(s) for s in np.linalg.norm(canonical[:3, :3], axis=0))
    patient = (card.patient_of(name) if card else None) or name
    return Scan(name, patient, (x, y, z), (dx, dy, dz), shape[3] if len(shape) > 3 else 1, partial(_read_file, path))


def _read_file(path: Path) -> np.ndarray:
    array, affine = read_image(path)
    return np.ascontiguousarray(to_canonical(array, affine)[0], dtype=np.float32)


def _cached(data: CachedDataset, modality: str | None) -> UnlabelledScans:
    scans = [Scan(c.name, c.patient, c.shape, c.spacing, c.num_channels, partial(data.image, c.name)) for c in data.cases]
    given = (modality,) if modality else data.modality
    return _usable(data.name, data.group, data.related, given, data.patients_known, scans, [])


def _usable(
    name: str,
    group: str,
    related: Sequence[str],
    modality: Sequence[str],
    patients_known: bool,
    scans: Sequence[Scan],
    aside: list[SetAside],
) -> UnlabelledScans:
    """Return the scans that have the usual number of channels, the first of each patient."""
    if not scans:
        first = f" ({aside[0].reason})" if aside else ""
        raise DataError(f"{name}: found no scan that can be read, {len(aside)} set aside{first}; expected NIfTI scans")
    usual = max(Counter(s.num_channels for s in scans).items(), key=lambda item: (item[1], -item[0]))[0]
    if len(modality) not in (1, usual):
        raise DataError(
            f"{name}: found {usual} channel(s), but {len(modality)} kinds are declared; correct dataset.json or the card"
        )
    kept: dict[str, Scan] = {}
    for scan in sorted(scans, key=lambda s: s.name):
        if scan.num_channels != usual:
            aside.append(SetAside(scan.name, f"has {scan.num_channels} channel(s), most have {usual}"))
        elif scan.patient in kept:
            aside.append(SetAside(scan.name, f"the patient of {kept[scan.patient].name}"))
        else:
            kept[scan.patient] = scan
    kinds = tuple(modality) * (usual // len(modality))
    return UnlabelledScans(name, group, tuple(related), kinds, patients_known, tuple(kept.values()), tuple(aside))


def _declared(where: Path) -> tuple[str, ...]:
    """Return the kinds that a dataset.json declares, one a channel; one that nothing is known of where there is no file or key."""
    try:
        tree: Any = json.loads(where.read_text(encoding="utf-8")) if where.is_file() else {}
        found = tree.get("modality", tree.get("channel_names")) or {"0": "unknown"}
        return tuple(modality_kind(str(found[key])) for key in sorted(found, key=int))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{where}: found no usable 'modality' ({error}); expected {{'0': 'CT'}}, one entry a channel") from error


def _content_sample(scan: Scan) -> np.ndarray | None:
    """Return values (C, n) spread evenly over a scan's content box; None for a scan that cannot be read."""
    try:
        image = scan.read()
    except DataError:  # it is set aside, and told of, where all scans are read
        return None
    inside = image[(slice(None), *(slice(low, high) for low, high in content_box(image)))].reshape(len(image), -1)
    return inside[:, :: -(-inside.shape[1] // _CT_VOXELS)].astype(np.float64)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
