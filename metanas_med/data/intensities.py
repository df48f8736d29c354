"""Intensity profiles of scans: whether the units and channels of a scan fit those of other scans.

CT has one fixed scale (Hounsfield units), so a lost rescale or a window changes what the network sees. Its units are recognised
by two landmarks: the median of the body and that of the air around it, separated by Otsu's threshold (Otsu 1979, IEEE Trans.
SMC 9(1), equation 18). A linear change of the values moves both along. Other channels are standardised scan by scan, so their
scale has no meaning; their range, their order and clipped values have one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

#: percentages of the quantiles that a profile holds
PERCENTS = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
#: a profile samples about this many voxels of a channel
_SAMPLE = 400_000
#: the brightest and the darkest share of a channel, in which the other channels are described
_EXTREME = 5.0
#: a lowest value with a larger share is padding or masked air, which says nothing about units
_PADDING = 0.01


class ImageLike(Protocol):
    """An image (C, X, Y, Z) that is indexed by channel, or by a box in a channel: an array, or an image on the disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, place: Any, /) -> Any: ...


@dataclass(frozen=True)
class ChannelProfile:
    """The values of one channel; all but the first four numbers come from a regular sample of its voxels."""

    lowest: float
    highest: float
    at_lowest: float  #: share of voxels with the lowest value
    at_highest: float
    num_levels: float  #: different values in the sample
    quantiles: tuple[float, ...]  #: of all voxels, at ``PERCENTS``
    inside: tuple[float, ...]  #: of the scan's content: voxels that differ, in any channel, from the border
    landmarks: tuple[float, float]  #: medians below and above Otsu's threshold (air and body), without padding
    padded: tuple[float, float]  #: the same with padding, which may be all the air that there is


@dataclass(frozen=True)
class ScanProfile:
    """The profiles of a scan's channels, and how the channels depend on each other."""

    channels: tuple[ChannelProfile, ...]
    #: [i][j]: mean of channel i, standardised, over the brightest voxels of channel j
    at_brightest: tuple[tuple[float, ...], ...]
    at_darkest: tuple[tuple[float, ...], ...]  #: the same for the darkest voxels
    num_inside: int  #: voxels of the content in the sample

    def to_json(self) -> dict[str, Any]:
        """Return the profile as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> ScanProfile:
        """Return the profile that ``to_json`` wrote; KeyError, TypeError or ValueError for anything else."""
        channels = tuple(_channel_from(entry) for entry in value["channels"])
        bright, dark = (tuple(map(_floats, value[key])) for key in ("at_brightest", "at_darkest"))
        return ScanProfile(channels, bright, dark, int(value["num_inside"]))


def _channel_from(entry: dict[str, Any]) -> ChannelProfile:
    low, high = _floats(entry["landmarks"])
    padded_low, padded_high = _floats(entry["padded"])
    numbers = _floats([entry[key] for key in ("lowest", "highest", "at_lowest", "at_highest", "num_levels")])
    return ChannelProfile(
        numbers[0],
        numbers[1],
        numbers[2],
        numbers[3],
        numbers[4],
        _floats(entry["quantiles"]),
        _floats(entry["inside"]),
        (low, high),
        (padded_low, padded_high),
    )


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def profile_of(image: ImageLike) -> ScanProfile:
    """Return the profile of an image (C, X, Y, Z); it does not depend on labels.

    Cost: about 0.1 s per million voxels and channel up to the size of the sample, then a few passes over the voxels.
    """
    samples: list[np.ndarray] = []
    extremes: list[tuple[float, float, float, float]] = []
    borders: list[float] = []
    for channel in range(image.shape[0]):
        volume = np.asarray(image[channel])
        flat = volume.reshape(-1)
        lowest, highest = flat.min(), flat.max()
        low, high = (float(np.count_nonzero(flat == end) / flat.size) for end in (lowest, highest))
        extremes.append((float(lowest), float(highest), low, high))
        samples.append(flat[:: _step(volume.shape)].astype(np.float64))
        borders.append(float(border_value(volume)))
    content = np.any([sample != border for sample, border in zip(samples, borders, strict=True)], axis=0)
    if not content.any():
        content[:] = True
    inside = [sample[content] for sample in samples]
    channels = tuple(
        ChannelProfile(
            *extreme,
            float(len(np.unique(sample))),
            _quantiles(sample),
            _quantiles(own),
            _without_padding(sample, extreme),
            _landmarks(sample),
        )
        for extreme, sample, own in zip(extremes, samples, inside, strict=True)
    )
    return ScanProfile(channels, *_dependence(inside), num_inside=int(content.sum()))


def _step(shape: Sequence[int]) -> int:
    """Return the step of the sample; it shares no factor with an axis, or the sample could lie in a few planes."""
    step = max(1, math.prod(shape) // _SAMPLE)
    while step > 1 and any(math.gcd(step, size) > 1 for size in shape):
        step += 1
    return step


def border_value(volume: np.ndarray) -> Any:
    """Return the most frequent value on the six faces of a volume (X, Y, Z)."""
    faces = [volume.take(index, axis=axis).reshape(-1) for axis in range(3) for index in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    return values[counts.argmax()]


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return _floats(np.percentile(values, PERCENTS))


def _without_padding(sample: np.ndarray, extreme: tuple[float, float, float, float]) -> tuple[float, float]:
    lowest, _, at_lowest, _ = extreme
    values = sample[sample > lowest] if at_lowest > _PADDING else sample
    return _landmarks(values if values.size else sample)


def _landmarks(values: np.ndarray) -> tuple[float, float]:
    """Return the medians of sampled values below and above Otsu's threshold."""
    above = values > otsu_threshold(values)
    if not above.any() or above.all():
        middle = float(np.median(values))
        return middle, middle
    return float(np.median(values[~above])), float(np.median(values[above]))


def otsu_threshold(values: np.ndarray) -> float:
    """Return Otsu's threshold of values (n,), from a histogram of 256 bins between their 0.5 and 99.5 percentiles."""
    low, high = np.percentile(values, (0.5, 99.5))
    if not high > low:
        return float(low)
    counts, edges = np.histogram(values.clip(low, high), bins=256, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below, moment = counts.cumsum(), (counts * centres).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * below / below[-1] - moment) ** 2 / (below * (below[-1] - below))
    return float(edges[1 + np.nanargmax(between[:-1])])


def _dependence(inside: Sequence[np.ndarray]) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
    """Return the tables ``at_brightest`` and ``at_darkest`` of sampled channels."""
    if len(inside) == 1:
        return ((0.0,),), ((0.0,),)
    standard = [standardised(values, _quantiles(values)) for values in inside]
    bright = [values >= np.percentile(values, 100 - _EXTREME) for values in inside]
    dark = [values <= np.percentile(values, _EXTREME) for values in inside]
    tables = [tuple(tuple(float(values[w].mean()) for w in where) for values in standard) for where in (bright, dark)]
    return tables[0], tables[1]


def standardised(values: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """Return values shifted and scaled by the median and the spread in ``quantiles``, with compressed tails."""
    return np.arcsinh((np.asarray(values) - quantiles[3]) / spread(quantiles))


def spread(quantiles: Sequence[float]) -> float:
    """Return the spread that ``quantiles`` at ``PERCENTS`` show; never zero."""
    middle_half = (quantiles[4] - quantiles[2]) / 1.349
    return middle_half if middle_half > 0 else (quantiles[6] - quantiles[0]) / 5.15 or 1.0
