"""Scans without labels, from a folder or a prepared data set, and a plan that does not depend on labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import DataError
from .cached import CachedDataset, open_cache
from .case_check import content_box
from .dataset import BadCase, Case
from .options import STRICT, ReadOptions
from .orientation import to_canonical
from .plan import Plan, Triple, ct_intensity, fit_plan
from .scans import refuse_label_map, survey_scans
from .volumes import read_geometry, read_image, read_notes

#: voxels that the coarsest level of a network must have to represent a scan
LEAST_COARSE = 8
#: a scan with more planned voxels than this many views is not comparable with the others
MOST_VIEWS = 32
#: the intensities of CT are taken from this many scans, and this many voxels of each
_CT_SCANS, _CT_VOXELS = 20, 30_000


@dataclass(frozen=True)
class Scan:
    """One scan, described by its header; ``read()`` returns its voxels: (C, X, Y, Z) float32, canonical axes, raw intensities.

    ``read`` raises DataError for a damaged file and for a file that looks like a label map.
    """

    name: str
    patient: str
    shape: Triple  #: X, Y, Z, voxels, canonical axes
    spacing: tuple[float, float, float]  #: mm
    num_channels: int
    read: Callable[[], np.ndarray]
    notes: tuple[str, ...] = ()  #: what its header leaves open, and what is assumed


@dataclass(frozen=True)
class UnlabelledScans:
    """The scans of one folder or data set, with unique names, and one per patient if patients are known."""

    name: str  #: of the folder or data set
    group: str
    related: tuple[str, ...]
    modality: tuple[str, ...]  #: one per channel
    patients_known: bool
    scans: tuple[Scan, ...]
    set_aside: tuple[BadCase, ...]


def unlabelled_scans(
    place: CachedDataset | Path | str, modality: str | None = None, options: ReadOptions = STRICT
) -> UnlabelledScans:
    """Return the scans of a folder (see ``survey_scans``) or of a prepared data set (its ``.h5`` file, or open), without labels.

    For a folder only headers are read: every scan is used once, so copying all of them to the cache would cost more than it
    saves. Unusable scans, and further scans of the same patient (if a card names patients), are set aside. ``modality`` (CT,
    MR, PET, US) overrides dataset.json, card and cache for all channels. Raises DataError if there is no usable scan.
    """
    if not isinstance(place, CachedDataset) and Path(place).suffix == ".h5":
        place = open_cache(place)
    if isinstance(place, CachedDataset):
        scans = [
            Scan(c.name, c.patient, c.shape, c.spacing, c.num_channels, partial(place.image, c.name), c.notes)
            for c in place.cases
        ]
        dataset, kinds, aside = place, (modality,) * len(place.modality) if modality else place.modality, []
    else:
        dataset, aside = survey_scans(place, modality, options)
        scans, kinds = [_file_scan(case) for case in dataset.cases], dataset.modality
    if not scans:
        first = f" ({aside[0].problem})" if aside else ""
        raise DataError(f"{dataset.name}: found no scan that can be used, {len(aside)} set aside{first}; expected NIfTI scans")
    kept: dict[str, Scan] = {}
    for scan in sorted(scans, key=lambda s: s.name):
        if scan.patient in kept:
            aside.append(BadCase(dataset.name, scan.name, f"same patient as {kept[scan.patient].name}"))
        else:
            kept[scan.patient] = scan
    return UnlabelledScans(
        dataset.name, dataset.group, dataset.related, kinds, dataset.patients_known, tuple(kept.values()), tuple(aside)
    )


def plan_without_labels(scans: Sequence[Scan], modality: Sequence[str], view_voxels: int, levels: int) -> Plan:
    """Return a plan under which a whole scan of median size fits in a view of ``view_voxels``; for CT it reads up to 20 scans.

    The range of CT comes from the content boxes; ``fit_plan`` takes it from the organs' voxels. Apart from that, only headers
    are read. The view covers whole scans, so that features of all scans are comparable. The plan of a label-free episode
    (pretext/source.py) is different: it zooms in on a share of the content of a few cached scans.
    """
    extents = [np.broadcast_to(np.float32(0), (s.num_channels, *s.shape)) for s in scans]
    # with an infinite margin, any label stands for the whole scan
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
        raise DataError(f"{scans[0].name}: damaged, like all other scans that were read; fetch them again")
    intensities = list(plan.intensities)
    for c in channels:
        intensities[c] = ct_intensity(np.concatenate([s[c] for s in samples]))
    return replace(plan, intensities=tuple(intensities))


def misfit(scan: Scan, plan: Plan, view_voxels: int) -> str:
    """Return why ``scan`` is too small or too large for ``plan``, or an empty string."""
    size = plan.shape(scan.shape, scan.spacing)
    halvings = np.prod([list(s) for s in plan.strides], axis=0) if plan.strides else np.ones(3)
    whole = " x ".join(str(n) for n in scan.shape)
    # the view keeps three voxels at the coarsest level along each halved axis; a scan must keep two
    short = any(h > 1 and n < 2 * h for n, h in zip(size, halvings, strict=True))
    if short or np.prod(np.ceil(np.divide(size, halvings))) < LEAST_COARSE:
        return f"too small compared with the others: {whole} voxels, {_mm(scan)} mm"
    if math.prod(size) > MOST_VIEWS * view_voxels:
        return f"too large compared with the others: {whole} voxels, {_mm(scan)} mm"
    return ""


def _mm(scan: Scan) -> str:
    return " x ".join(f"{n * s:.0f}" for n, s in zip(scan.shape, scan.spacing, strict=True))


def _file_scan(case: Case) -> Scan:
    shape, affine = read_geometry(case.images)
    # a broadcast array takes no memory and is reoriented like the scan
    turned, canonical, _ = to_canonical(np.broadcast_to(np.uint8(0), shape[:3]), affine)
    x, y, z = turned.shape
    dx, dy, dz = (float(s) for s in np.linalg.norm(canonical[:3, :3], axis=0))
    return Scan(
        case.name,
        case.patient,
        (x, y, z),
        (dx, dy, dz),
        shape[3] if len(shape) > 3 else 1,
        partial(_read_file, case.images),
        read_notes(case.images),
    )


def _read_file(files: tuple[Path, ...]) -> np.ndarray:
    array, affine = read_image(files)
    refuse_label_map(files[0], array)
    return np.ascontiguousarray(to_canonical(array, affine)[0], dtype=np.float32)


def _content_sample(scan: Scan) -> np.ndarray | None:
    """Return values (C, n) spread evenly over a scan's content box; None for a scan that cannot be read."""
    try:
        image = scan.read()
    except DataError:  # reported and set aside later, when all scans are read
        return None
    inside = image[(slice(None), *(slice(low, high) for low, high in content_box(image)))].reshape(len(image), -1)
    return inside[:, :: -(-inside.shape[1] // _CT_VOXELS)].astype(np.float64)
