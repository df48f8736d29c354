"""Comparison of a scan's intensity profile with those of other scans: which slip explains a difference.

All limits were set on 349 real scans of 23 data sets: no scan is reported against others of its own data set, and known changes
of a scan (offset, window, rescaling, exchanged channels) are (``docs/reliability.md``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from .intensities import ChannelProfile, ScanProfile, spread, standardised

#: largest distance (HU) of the body's median from soft tissue; in 48 real scans it was at most 150
_SOFT = 200.0
#: difference (HU) between body and air if there is air around the body, and its largest value
_AIR_GAP, _LARGEST_GAP = 700.0, 1500.0
#: offsets of CT values: scanners store HU + 1024, and a rescale that is applied twice takes them away twice
_OFFSETS = {"HU": 0.0, "HU + 1024": 1024.0, "HU - 1024": -1024.0}
#: what units other than HU are likely to come from
_SLIPS = {
    "HU + 1024": "stored values without the rescale to HU",
    "HU - 1024": "the rescale to HU was applied twice",
    "0..1": "rescaled to 0..1",
    "0..255": "a window that was saved as 0..255",
    "standardised": "standardised values",
    "HU": "HU",
    "unknown": "neither HU nor stored values",
}
#: a share of voxels at the highest value that only clipping gives, in total and relative to the other scans
_CLIPPED, _CLIPPED_MORE = 0.02, 4.0
#: with fewer different values, each of them has a large share
_LEAST_LEVELS = 64
#: a scan of so few values may be a label map
_LABEL_LEVELS = 32
#: how many times better another order of the channels must fit for a warning and a refusal, by number of other scans; for
#: scans in their right order (1500 draws, two real and six synthetic data sets) it was at most 1.15, 1.12, 1.05 and 1.04
_BETTER = {1: (1.2, 1.4), 2: (1.15, 1.3), 3: (1.08, 1.15), 4: (1.05, 1.1)}
#: with fewer voxels in the content of a scan, chance alone makes an order fit up to 1.5 times better
_FEW_VOXELS = 10_000
#: least mean distance from the other scans, in spreads between them, of channels in a wrong order; and from the better order
_FAR, _FARTHER = 0.35, 0.02
#: least spread of a feature of the channels' order between scans of a kind
_LEAST_SPREAD = 0.3
#: orders of more channels than this differ by single exchanges only
_ALL_ORDERS = 5


@dataclass(frozen=True)
class Misfit:
    """What does not fit, in words; ``refused`` if it cannot be meant, otherwise a warning is enough."""

    text: str
    refused: bool

    @property
    def refusal(self) -> str:
        """The text of an error, which names the way on."""
        return f"{self.text}, or accept it with --any-intensities"


def misfit(
    scan: ScanProfile, others: Sequence[ScanProfile], kinds: Sequence[str], names: Sequence[str] = (), whose: str = "the others"
) -> Misfit | None:
    """Return why the intensities of ``scan`` do not fit those of ``others``, or None.

    ``kinds`` holds CT, MR, PET, US or another word for each channel, ``names`` the channels' names (default: kinds), and
    ``whose`` names the others in the text. Without others, or with another number of channels, nothing is compared.
    """
    others = [other for other in others if len(other.channels) == len(scan.channels)]
    if not others:
        return None
    names = names if len(names) == len(kinds) else kinds
    if problem := exchanged(scan, others, names, whose):
        return problem
    each = (
        _named(_channel(scan.channels[c], [o.channels[c] for o in others], kind, whose), c, names) for c, kind in enumerate(kinds)
    )
    return max((problem for problem in each if problem), key=lambda problem: problem.refused, default=None)


def _named(problem: Misfit | None, channel: int, names: Sequence[str]) -> Misfit | None:
    if problem is None or len(names) == 1:
        return problem
    return Misfit(f"channel {channel} ({names[channel]}): {problem.text}", problem.refused)


def _channel(channel: ChannelProfile, others: Sequence[ChannelProfile], kind: str, whose: str) -> Misfit | None:
    if channel.lowest == channel.highest and kind.upper() == "CT" and any(o.lowest < o.highest for o in others):
        return Misfit(f"all its voxels have the value {channel.lowest:g}, unlike those of {whose}. Check the file", True)
    if kind.upper() == "CT" and (problem := _other_units(channel, others, whose)):
        return problem
    if problem := _clipped(channel, others, kind, whose):
        return problem
    return None if kind.upper() == "CT" else _other_range(channel, others, whose)


def _other_units(channel: ChannelProfile, others: Sequence[ChannelProfile], whose: str) -> Misfit | None:
    units = ct_units(channel)
    usual, count = Counter(ct_units(other) for other in others).most_common(1)[0]
    if units == usual or 2 * count <= len(others):
        return None
    if "unknown" in (units, usual) and _close(channel, others):
        return None
    slip = _SLIPS[units] if usual in ("HU", "unknown") else f"{_SLIPS[units]}, where {whose} are {_SLIPS[usual]}"
    if channel.num_levels <= _LABEL_LEVELS < min(other.num_levels for other in others):
        slip = f"only {channel.num_levels:g} different values, as in a label map"
    return Misfit(
        f"its CT values lie in {_range([channel])}, those of {whose} in {_range(others)}: {slip}? Convert it",
        True,
    )


def ct_units(channel: ChannelProfile) -> str:
    """Return the units of a CT channel, one of ``_SLIPS``.

    With air around the body, the body is soft tissue; without air, soft tissue is one of the two classes.
    """
    if channel.lowest >= -1.001 and channel.highest <= 1.001:
        return "0..1"
    if channel.highest - channel.lowest < 30:
        return "standardised"
    if channel.lowest >= 0 and channel.highest <= 255.5:
        return "0..255"
    for air, body in (channel.landmarks, channel.padded):
        if body - air > _LARGEST_GAP:
            continue
        for name, offset in _OFFSETS.items():
            if any(abs(value - offset) < _SOFT for value in ([body] if body - air > _AIR_GAP else [air, body])):
                return name
    return "unknown"


def _close(channel: ChannelProfile, others: Sequence[ChannelProfile]) -> bool:
    """Return whether a scan of unknown units lies where the others do, within their own range."""
    lows, highs = ([o.quantiles[k] for o in others] for k in (0, 6))
    room = max(highs) - min(lows)
    return (
        abs(channel.landmarks[1] - np.median([o.landmarks[1] for o in others])) < 0.25 * room
        and 0.25 < spread(channel.quantiles) / np.median([spread(o.quantiles) for o in others]) < 4
    )


def _clipped(channel: ChannelProfile, others: Sequence[ChannelProfile], kind: str, whose: str) -> Misfit | None:
    usual = max(other.at_highest for other in others)
    if channel.num_levels < _LEAST_LEVELS or channel.at_highest < max(_CLIPPED, _CLIPPED_MORE * usual):
        return None
    if channel.highest > max(other.highest for other in others):
        return None  # something brighter than all that the others show, such as metal
    return Misfit(
        f"{100 * channel.at_highest:.0f} % of its voxels have the highest value, {channel.highest:g}; in {whose} at most "
        f"{100 * usual:.1f} %: was it clipped to a window? Use the original scan",
        kind.upper() == "CT",
    )


def _other_range(channel: ChannelProfile, others: Sequence[ChannelProfile], whose: str) -> Misfit | None:
    """Return a warning for a channel that is standardised by scan but was rescaled before: usually its result is right."""
    if channel.lowest == channel.highest:
        return None  # reported elsewhere
    lowest, highest = min(o.lowest for o in others), [o.highest for o in others]
    told = f"its values lie in {_range([channel])}, those of {whose} in {_range(others)}"
    if channel.lowest >= 0 and channel.highest <= 1.001 and min(highest) > 20:
        return Misfit(f"{told}: rescaled to 0..1? Values are standardised for each scan, so this may be harmless", False)
    eight_bits = channel.lowest == 0 and channel.highest == 255
    if eight_bits and max(highest) < 5 * min(highest) and not 120 < np.median(highest) < 512:
        return Misfit(f"{told}: rescaled to 0..255? Values are standardised for each scan, so this may be harmless", False)
    if lowest >= 0 and channel.lowest < -0.05 * (channel.quantiles[6] - channel.quantiles[0]):
        return Misfit(f"{told}: was something subtracted? Values are standardised for each scan, so this may be harmless", False)
    return None


def _range(channels: Iterable[ChannelProfile]) -> str:
    channels = list(channels)
    return f"{min(c.lowest for c in channels):.4g} to {max(c.highest for c in channels):.4g}"


def other_names(names: Sequence[str], others: Sequence[str], whose: str) -> Misfit | None:
    """Return a misfit if channels are named otherwise than those of ``whose``; None if either has no names.

    The same names in another order cannot be meant; other names may be another spelling.
    """
    here, there = ([name.strip().casefold() for name in given] for given in (names, others))
    if here == there or len(here) != len(there):
        return None
    told = f"its channels are {', '.join(names)}; those of {whose} are {', '.join(others)}"
    if sorted(here) == sorted(there):
        return Misfit(f"{told}. Reorder them", True)
    return Misfit(told, False)


def other_kinds(kinds: Sequence[str], others: Sequence[str], whose: str) -> Misfit | None:
    """Return a misfit if a channel's kind (CT, MR, PET, US) is another one than that of ``whose``; other words are not compared."""
    known = {"CT", "MR", "PET", "US"}
    if len(kinds) != len(others) or all(a == b or not {a, b} <= known for a, b in zip(kinds, others, strict=True)):
        return None
    return Misfit(f"its modality is {', '.join(kinds)}; that of {whose} is {', '.join(others)}", True)


def two_orders(scans: Sequence[ScanProfile]) -> tuple[list[int], list[int]] | None:
    """Return the places of the scans with one order of channels and of those with another one; None unless both are common.

    A scan in a rare order is found by ``misfit``. Here the first scan of either group must split the scans in the same way.
    """

    def unlike(place: int) -> list[int]:
        return [k for k, scan in enumerate(scans) if k != place and exchanged(scan, [scans[place]], (), "")]

    if not scans or len(scans[0].channels) < 2 or not (second := unlike(0)):
        return None
    first = [k for k in range(len(scans)) if k not in second]
    if min(len(first), len(second)) < max(2, len(scans) / 3) or unlike(second[0]) != first:
        return None
    return first, second


def exchanged(scan: ScanProfile, others: Sequence[ScanProfile], names: Sequence[str], whose: str) -> Misfit | None:
    """Return a misfit if the channels of ``scan`` fit those of ``others`` much better in another order."""
    number = len(scan.channels)
    if number < 2 or any(c.lowest == c.highest for profile in (scan, *others) for c in profile.channels):
        return None  # a constant channel is a missing sequence
    straight = tuple(range(number))
    known = np.array([_order_features(other, straight) for other in others])
    centre, width = known.mean(0), np.hypot(known.std(0, ddof=min(1, len(known) - 1)), _LEAST_SPREAD)
    distance = {o: float(np.abs((_order_features(scan, o) - centre) / width).mean()) for o in _orders(number)}
    best = min(distance, key=lambda order: (distance[order], order))
    told, refused = _BETTER[min(len(others), max(_BETTER))]
    if min(profile.num_inside for profile in (scan, *others)) < _FEW_VOXELS:
        told, refused = 2 * told, 2 * refused
    if distance[straight] <= max(_FAR, told * distance[best], distance[best] + _FARTHER):
        return None
    called = names if len(set(names)) == number else [f"channel {c} of {whose}" for c in straight]
    looks = ", ".join(f"channel {c} looks like {called[best.index(c)]}, not {called[c]}" for c in straight if best[c] != c)
    return Misfit(
        f"its channels seem to be in another order than those of {whose}: {looks}. Reorder them",
        distance[straight] > refused * distance[best],
    )


def _orders(number: int) -> list[tuple[int, ...]]:
    """Return the orders of channels to compare: order[i] is the scan's channel in place i."""
    if number <= _ALL_ORDERS:
        return list(permutations(range(number)))
    orders = [tuple(range(number))]
    for one, other in combinations(range(number), 2):
        order = list(range(number))
        order[one], order[other] = other, one
        orders.append(tuple(order))
    return orders


def _order_features(scan: ScanProfile, order: Sequence[int]) -> np.ndarray:
    """Return numbers that identify a scan's channels in ``order`` and do not change if all values are scaled together."""
    channels = [scan.channels[c] for c in order]
    away = ~np.eye(len(order), dtype=bool)
    tables = [np.array(table)[np.ix_(order, order)][away] for table in (scan.at_brightest, scan.at_darkest)]
    shapes = [standardised(np.array(c.inside), c.inside) for c in channels]
    spreads = np.log([spread(c.inside) for c in channels])
    centres = [np.arcsinh(c.inside[3] / spread(c.inside)) for c in channels]
    return np.concatenate([*tables, *shapes, spreads - spreads.mean(), centres])
