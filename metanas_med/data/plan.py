"""The plan: how scans are prepared for the network and how its label maps are mapped back, fitted to the support scans alone.

A plan holds everything that depends on labels or on the choice of scans: axis order (coarsest axis last), spacing, intensity
normalisation, view size and stride schedule. It is an immutable value that converts to and from JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from ..ignored import IGNORED
from ..machine import free_memory_bytes
from .box import bounding_box
from .intensities import ImageLike
from .units import by

Triple = tuple[int, int, int]

#: a thin organ refines the spacing by at most this factor: the number of windows grows by its cube
FINER = 2.0

#: bytes that a scan may take if the system does not report its free memory
_MOST_BYTES = 2**36

#: a CT window narrower than the first part of the range of the scans' values (5th to 95th percentile) hides everything around an
#: organ of nearly one value; it is widened to the second part. In 48 real CT scans, organs had at least 0.02 of that range
_NARROW, _WIDENED = 0.01, 0.1
#: values of a scan that are sampled for its range
_RANGE_VOXELS = 200_000

#: values are clipped at this many spreads from the median: 3 asinh(1e6) is 44
_FARTHEST = np.float32(1e6)


@dataclass(frozen=True)
class Intensity:
    """Normalisation of one channel: CT is clipped to [low, high] and standardised; other channels are standardised per scan."""

    kind: str  # "ct" or "robust"
    low: float = 0.0
    high: float = 0.0
    center: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Plan:
    axes: Triple  #: plan axis i is canonical axis axes[i]; the coarsest axis is last
    spacing: tuple[float, float, float]  #: mm, in plan order
    view: Triple  #: voxels of a training view, in plan order
    strides: tuple[Triple, ...]  #: one triple per level transition
    intensities: tuple[Intensity, ...]  #: one per channel
    in_one_piece: tuple[bool, ...] = ()  #: one per organ, or empty: whether predictions drop its small pieces

    def shape(self, shape: Sequence[int], spacing: Sequence[float]) -> Triple:
        """Return the plan-order voxel shape of a scan of canonical ``shape`` and ``spacing`` (mm)."""
        sizes = [max(1, round(shape[a] * spacing[a] / s)) for a, s in zip(self.axes, self.spacing, strict=True)]
        return sizes[0], sizes[1], sizes[2]

    def too_large(self, shape: Sequence[int], spacing: Sequence[float], bytes_a_voxel: int) -> str:
        """Return why a planned scan would not fit in memory, or an empty string; canonical ``shape``, ``spacing`` in mm.

        A small file can claim such a size if its header uses other units than millimetres.
        """
        planned, free = self.shape(shape, spacing), free_memory_bytes() or _MOST_BYTES
        needed = bytes_a_voxel * math.prod(planned)
        if needed <= free:
            return ""
        return (
            f"the header claims {by(np.multiply(shape, spacing).tolist())} mm, {by(planned)} voxels at the plan's spacing, "
            f"which take at least {needed / 2**30:.3g} GiB of memory; {free / 2**30:.3g} GiB are free. "
            "Fix the spacing in the header, or crop the scan."
        )

    def apply_image(self, image: ImageLike, spacing: Sequence[float]) -> torch.Tensor:
        """Return a canonical image (C, X, Y, Z) normalised and resampled: (C, X, Y, Z) in plan order, float32.

        Memory: the result and one channel at a time.
        """
        target = self.shape(image.shape[1:], spacing)
        channels = (torch.from_numpy(_normalise(image[c], intensity)) for c, intensity in enumerate(self.intensities))
        return torch.cat([_resample(channel.permute(*self.axes)[None], target) for channel in channels])

    def apply_label(self, label: np.ndarray, spacing: Sequence[float], num_organs: int) -> torch.Tensor:
        """Return a label map (X, Y, Z) of 0, organs 1..num_organs and IGNORED resampled: (X, Y, Z) uint8 in plan order.

        Each organ is resampled as a soft map and the largest value wins (the first of equal ones), which preserves thin
        organs as well as the grid allows. Memory, for any number of organs: one float map of the scan's size and three of the
        planned size.
        """
        volume = torch.from_numpy(label).permute(*self.axes)
        target = self.shape(label.shape, spacing)
        if tuple(volume.shape) == target:
            return volume.to(torch.uint8, copy=True)
        best, found = _resample((volume == 0)[None], target)[0], torch.zeros(target, dtype=torch.uint8)
        for k in [*range(1, num_organs + 1), *([IGNORED] if bool((volume == IGNORED).any()) else [])]:
            soft = _resample((volume == k)[None], target)[0]
            found[soft > best] = k
            torch.maximum(best, soft, out=best)
        return found

    def invert_scores(self, scores: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return class scores (K, X, Y, Z) in plan order resampled to canonical order and canonical ``shape``."""
        target = tuple(shape[a] for a in self.axes)
        volume = scores
        if tuple(volume.shape[1:]) != target:
            volume = F.interpolate(volume[None].float(), size=target, mode="trilinear", align_corners=False)[0]
        inverse = [self.axes.index(a) for a in range(3)]
        return volume.permute(0, *(a + 1 for a in inverse))

    def invert_labels(self, scores: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return the label map (X, Y, Z) uint8, in canonical order and ``shape``, of class scores (K, X, Y, Z) in plan order.

        Equals the argmax of ``invert_scores``: the first of equal scores wins. Memory, for any number of classes: three float
        maps.
        """
        best = self.invert_scores(scores[:1], shape)[0]
        found = torch.zeros(best.shape, dtype=torch.uint8)
        for k in range(1, len(scores)):
            score = self.invert_scores(scores[k : k + 1], shape)[0]
            found[score > best] = k
            best = torch.maximum(best, score)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Plan:
        """Return the plan that ``to_json`` wrote."""
        axes, view = tuple(value["axes"]), tuple(value["view"])
        strides = tuple((int(a), int(b), int(c)) for a, b, c in value["strides"])
        spacing = tuple(float(s) for s in value["spacing"])
        intensities = tuple(Intensity(**i) for i in value["intensities"])
        # older models lack this field and keep all pieces
        pieces = tuple(bool(b) for b in value.get("in_one_piece", ()))
        return Plan(axes, spacing, view, strides, intensities, pieces)  # type: ignore[arg-type]


def fit_plan(
    images: Sequence[ImageLike],
    labels: Sequence[np.ndarray],
    spacings: Sequence[Sequence[float]],
    kinds: Sequence[str],
    *,
    view_voxels: int,
    margin: float,
    levels: int,
    thickness: float = 0.0,
    ratio: float = 0.0,
    thick_stride: int = 0,
) -> Plan:
    """Return the plan of a support set: canonical images (C, X, Y, Z), organ maps (X, Y, Z), spacings (mm), kinds of channels.

    ``view_voxels`` limits a view's size, up to the rounding of its axes. The spacing is the finest (never below the native
    one) at which the organs with ``margin`` fit in a view. If the thinnest organ would then be under ``thickness`` voxels
    across (0: never), the spacing is finer by up to a factor of ``FINER``, and a view shows only a part of the organs. Labels
    outside the support have no influence.

    With ``ratio`` (0: no limit, else at least 1), no spacing is finer than the thickest native one divided by ``ratio``; this
    precedes ``thickness``. A ratio of 1 gives an isotropic grid. ``thick_stride``: see ``stride_schedule``.
    """
    native = np.median([list(s) for s in spacings], axis=0)
    finest = native.min()
    coarse = int(native.argmax()) if native.max() > 1.2 * finest else 2
    axes = tuple([a for a in range(3) if a != coarse] + [coarse])
    order = list(axes)
    native = native[order]
    volumes = np.median([np.multiply(im.shape[1:], s) for im, s in zip(images, spacings, strict=True)], axis=0)[order]
    extents = np.median([np.multiply(_extent(lab), s) for lab, s in zip(labels, spacings, strict=True)], axis=0)[order]
    wanted = np.minimum(np.maximum(extents * margin, 1e-6), volumes)

    def voxels_at(threshold: float) -> np.ndarray:
        return np.maximum(wanted / np.maximum(native, threshold), 1.0)

    least = max(float(finest), float(native.max()) / ratio) if ratio else float(finest)
    low, high = least, float(max(native.max(), wanted.max()))
    if voxels_at(low).prod() > view_voxels:
        for _ in range(60):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if voxels_at(middle).prod() > view_voxels else (low, middle)
        threshold = high
    else:
        threshold = low
    if thickness and threshold > least:
        # no grid is finer than the scan: a lesion in a single thick slice does not refine the axes within the slice
        finer = max(float(np.maximum(thinnest(labels, spacings)[order] / thickness, native).min()), least)
        if finer < threshold:
            threshold, wanted = max(finer, threshold / FINER), np.zeros(3)
    spacing = np.maximum(native, threshold)
    view = _enlarge(wanted / spacing, volumes / spacing, view_voxels)
    return Plan(
        (axes[0], axes[1], axes[2]),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        view,
        stride_schedule(view, spacing.tolist(), levels, thick_stride),
        tuple(_intensity(kind, images, c, labels) for c, kind in enumerate(kinds)),
    )


def thinnest(labels: Sequence[np.ndarray], spacings: Sequence[Sequence[float]]) -> np.ndarray:
    """Return for each axis (3,) the mean chord in mm of the organ in maps (X, Y, Z) that is thinnest along it.

    The mean is over all intersections of the organ with lines along the axis; then the median is taken over the scans that
    show the organ. Infinite if nothing is labelled. Cost: a few passes over the box around each organ.
    """
    found: dict[int, list[list[float]]] = {}
    for label, spacing in zip(labels, spacings, strict=True):
        for k, box in enumerate(ndimage.find_objects(label), start=1):
            if box is not None:
                inside = label[box] == k
                voxels = np.count_nonzero(inside)
                chords = [float(voxels / _entries(np.moveaxis(inside, axis, 0)) * mm) for axis, mm in enumerate(spacing)]
                found.setdefault(k, []).append(chords)
    return np.min([np.full(3, math.inf), *(np.median(chords, axis=0) for chords in found.values())], axis=0)


def _entries(mask: np.ndarray) -> int:
    """Return the number of times that lines along the first axis enter ``mask``."""
    return int(np.count_nonzero(mask[0]) + np.count_nonzero(mask[1:] > mask[:-1]))


def stride_schedule(view: Sequence[int], spacing: Sequence[float], levels: int, thick_stride: int = 0) -> tuple[Triple, ...]:
    """Return ``levels - 1`` stride triples: axes of at least 6 voxels are halved, except at over 1.6 times the finest spacing.

    ``thick_stride`` is the first transition, from 1, that may halve the thick (last) axis. This axis then has a rule of its own:
    whole before that transition, halved from it on wherever it has at least 6 voxels, at any spacing. The two other axes are
    compared with each other only. With 0, all three axes follow the first rule.
    """
    sizes, current, schedule = list(view), list(spacing), []
    compared = 2 if thick_stride else 3  # axes whose spacings are compared
    for transition in range(1, levels):
        allowed = (True, True, transition >= thick_stride)
        of_some = [s for s, n in zip(current[:compared], sizes[:compared], strict=True) if n > 1]
        limits = [1.6 * min(of_some, default=1.0)] * compared + [math.inf] * (3 - compared)
        long = [n >= 6 and may for n, may in zip(sizes, allowed, strict=True)]
        step = tuple(2 if enough and s <= limit else 1 for enough, s, limit in zip(long, current, limits, strict=True))
        if step == (1, 1, 1):  # no axis satisfies both rules: halve every axis that is long enough
            step = tuple(2 if enough else 1 for enough in long)
        sizes = [-(-n // k) for n, k in zip(sizes, step, strict=True)]
        current = [s * k for s, k in zip(current, step, strict=True)]
        schedule.append((step[0], step[1], step[2]))
    return tuple(schedule)


def _extent(label: np.ndarray) -> np.ndarray:
    """Return the extent in voxels of all labelled voxels together; the whole shape if nothing is labelled."""
    return np.asarray([part.stop - part.start for part in bounding_box(label)], dtype=float)


def _enlarge(wanted: np.ndarray, volume: np.ndarray, budget: int) -> Triple:
    """Return the view: all axes are enlarged equally, up to the scan's own size, within the voxel budget."""

    def at(cap: float) -> np.ndarray:
        return np.maximum(np.minimum(volume, np.maximum(wanted, cap)), 1.0)

    low, high = 1.0, float(volume.max())
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).prod() <= budget else (low, middle)
    sizes = [max(1, round(float(v))) for v in at(low)]
    return sizes[0], sizes[1], sizes[2]


def _intensity(kind: str, images: Sequence[ImageLike], channel: int, labels: Sequence[np.ndarray]) -> Intensity:
    if kind.upper() != "CT":
        return Intensity("robust")
    values = []
    for image, label in zip(images, labels, strict=True):
        box = bounding_box(label)  # for a scan on the disk, only this box is read
        values.append(image[(channel, *box)][label[box] > 0].astype(np.float64))
    inside = np.concatenate(values)
    if inside.size == 0:
        inside = np.concatenate([im[channel].ravel() for im in images]).astype(np.float64)
    window = ct_intensity(inside)
    low, high = np.percentile(inside, [0.5, 99.5])
    if high - low >= 50:  # HU: wide in any scan, so the scans need not be read
        return window
    samples = [np.asarray(im[channel]).reshape(-1) for im in images]
    return ct_intensity(inside, np.concatenate([s[:: max(1, s.size // _RANGE_VOXELS)] for s in samples]))


def ct_intensity(inside: np.ndarray, scans: np.ndarray | None = None) -> Intensity:
    """Return the normalisation of CT from float64 values (n,): clipped to the 0.5 and 99.5 percentile, standardised.

    If nearly all values are equal (metal at the end of the scale, contrast agent), the window is widened by the range of the
    values of whole ``scans`` (m,), because an empty window would make every scan constant. Without them, ``inside`` is used.
    """
    low, high = np.percentile(inside, [0.5, 99.5])
    around = np.percentile(inside if scans is None else scans, [0, 5, 95, 100])
    usual = (around[2] - around[1]) or (around[3] - around[0]) or 1.0
    clipped = inside.clip(low, high)
    center, scale = float(clipped.mean()), float(max(clipped.std(), 1e-3))
    if high - low < _NARROW * usual:
        low, high = center - _WIDENED / 2 * usual, center + _WIDENED / 2 * usual
        scale = float(
            max(inside.clip(low, high).std(), (high - low) / 5)
        )  # 99 % of normally distributed values are 5 spreads wide
    return Intensity("ct", float(low), float(high), center, scale)


def _normalise(image: np.ndarray, intensity: Intensity) -> np.ndarray:
    """Return one channel (X, Y, Z), float32, with about zero mean and unit scale."""
    values = image.astype(np.float32)
    if intensity.kind == "ct":  # in place: a scan may have 10^8 voxels
        np.clip(values, intensity.low, intensity.high, out=values)
        values -= np.float32(intensity.center)
        values /= np.float32(intensity.scale)
        return values
    # air and masked voxels would dominate the scale of scans with a dark background: exclude the lowest value
    inside = values[values > values.min()]
    if inside.size < 0.05 * values.size:
        inside = values.ravel()
    low, middle, high = np.percentile(inside, [25, 50, 75])
    spread = (high - low) / 1.349
    if spread <= 1e-6 * abs(middle):  # most values are equal, up to the rounding of float32
        spread = float(inside.std(dtype=np.float64)) or float(values.std(dtype=np.float64)) or 1.0
    # asinh preserves the order of long tails (PET, lesions) but compresses them; near zero it is the identity
    with np.errstate(over="ignore"):  # some scanners store the largest float for "no data"
        values -= np.float32(middle)
        values /= np.float32(3.0 * spread)
    np.clip(values, -_FARTHEST, _FARTHEST, out=values)
    np.arcsinh(values, out=values)
    values *= np.float32(3.0)
    return values


def _resample(volume: torch.Tensor, shape: Triple) -> torch.Tensor:
    """Return (C, X, Y, Z) resampled to ``shape``: area means along axes that shrink by 1.5 or more, linear along the others."""
    volume = volume.contiguous().float()  # this order copies a permuted mask as bytes
    halfway = tuple(n if old >= 1.5 * n else old for old, n in zip(volume.shape[1:], shape, strict=True))
    if halfway != tuple(volume.shape[1:]):
        volume = F.adaptive_avg_pool3d(volume, (halfway[0], halfway[1], halfway[2]))
    if shape != tuple(volume.shape[1:]):
        volume = F.interpolate(volume[None], size=shape, mode="trilinear", align_corners=False)[0]
    return volume
