"""The intensities of a model's support scans, kept in the model and compared with those of every further scan."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.box import bounding_box
from ..data.cached import CachedDataset
from ..data.intensities import PERCENTS, ChannelProfile, ScanProfile, profile_of
from ..data.intensity_check import Misfit, misfit, other_kinds, other_names
from ..data.plan import Plan
from ..data.set_check import mixed_intensities
from ..errors import DataError
from ..tasks.organ import OrganTask, organ_map

log = logging.getLogger(__name__)

#: a warning is due if the share of a CT scan's voxels with intensities of the organs is below this part of the support's; over
#: 680 draws from real scans it was at least 0.45
_FEWER = 0.1
#: a share of voxels at the highest value that chance does not give
_REPEATED = 1e-4


@dataclass(frozen=True)
class SupportIntensities:
    """Profiles of the support scans, and the values inside their organs."""

    kinds: tuple[str, ...]  #: of the channels: CT, MR, PET, US or another word
    names: tuple[str, ...]  #: of the channels, as in dataset.json; empty if unknown
    scans: tuple[ScanProfile, ...]
    #: by organ and channel: quantiles at ``PERCENTS`` of the values inside the organ, over all support scans
    organs: Mapping[str, tuple[tuple[float, ...], ...]]

    @staticmethod
    def of(data: CachedDataset, task: OrganTask, support: Sequence[str]) -> SupportIntensities:
        """Return the intensities of the cases ``support``. Cost: one read of the box around the organs of each scan."""
        cases = {case.name: case for case in data.cases}
        profiles = tuple(cases[n].profile or profile_of(data.lazy_image(n)) for n in support)
        inside: dict[str, list[np.ndarray]] = {name: [] for name in task.names}
        for case in support:
            label = organ_map(data, task, case)
            box = bounding_box(label)
            region, image = label[box], data.image_region(case, box)
            for k, name in enumerate(task.names, start=1):
                inside[name].append(image[:, region == k])
        organs = {}
        for name, parts in inside.items():
            values = np.concatenate(parts, axis=1)
            if values.size:
                organs[name] = tuple(tuple(float(q) for q in np.percentile(channel, PERCENTS)) for channel in values)
        return SupportIntensities(data.modality, data.channel_names, profiles, organs)

    def misfit(self, profile: ScanProfile, plan: Plan, whose: str = "the scans that the model was adapted to") -> Misfit | None:
        """Return why a scan's intensities do not fit those of the support, or None."""
        found = misfit(profile, self.scans, self.kinds, self.names, whose)
        if found and found.refused:
            return found
        for number, (kind, channel) in enumerate(zip(self.kinds, profile.channels, strict=False)):
            if kind.upper() != "CT":
                continue
            window = plan.intensities[number]
            if channel.highest <= window.low or channel.lowest >= window.high:
                return Misfit(
                    f"all its values ({channel.lowest:.4g} to {channel.highest:.4g}) lie outside the model's window, "
                    f"{window.low:.4g} to {window.high:.4g}. Convert it",
                    True,
                )
            found = found or self._cut(number, channel, whose) or self._few_inside(number, channel, whose)
        return found

    def other_names(self, names: Sequence[str], kinds: Sequence[str] = ()) -> Misfit | None:
        """Return why names or kinds of a data set's channels differ from those of the support, or None."""
        whose = "the scans that the model was adapted to"
        return other_names(names, self.names, whose) or other_kinds(kinds, self.kinds, whose)

    def _cut(self, number: int, channel: ChannelProfile, whose: str) -> Misfit | None:
        """Return a warning if many voxels have the highest value, unlike in the support, and organs are brighter than it."""
        usual = max(scan.channels[number].at_highest for scan in self.scans)
        brighter = {name: q[number][3] for name, q in self.organs.items() if q[number][3] > channel.highest}
        if not brighter or channel.at_highest < max(_REPEATED, 4 * usual):
            return None
        organs = ", ".join(f"{name} ({value:.4g})" for name, value in brighter.items())
        return Misfit(
            f"{100 * channel.at_highest:.2g} % of its voxels have the highest value, {channel.highest:g}, and no voxel is as bright "
            f"as {organs} in {whose}: was it clipped to a window? Use the original scan",
            False,
        )

    def _few_inside(self, number: int, channel: ChannelProfile, whose: str) -> Misfit | None:
        """Return a warning if far fewer voxels than in every support scan have intensities of the organs."""
        ranges = [quantiles[number] for quantiles in self.organs.values()]
        if not ranges:
            return None
        low, high = min(q[1] for q in ranges), max(q[5] for q in ranges)
        usual = min(_share(scan.channels[number], low, high) for scan in self.scans)
        share = _share(channel, low, high)
        if share >= _FEWER * usual:
            return None
        return Misfit(
            f"{100 * share:.2g} % of its voxels have intensities of the organs ({low:.4g} to {high:.4g}), "
            f"in {whose} at least {100 * usual:.2g} %: check its units",
            False,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the intensities as JSON values."""
        return {
            "kinds": list(self.kinds),
            "names": list(self.names),
            "scans": [scan.to_json() for scan in self.scans],
            "organs": {name: [list(q) for q in channels] for name, channels in self.organs.items()},
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> SupportIntensities:
        """Return the intensities that ``to_json`` wrote; KeyError, TypeError or ValueError for anything else."""
        organs = {
            str(name): tuple(tuple(float(v) for v in quantiles) for quantiles in channels)
            for name, channels in value["organs"].items()
        }
        scans = tuple(ScanProfile.from_json(scan) for scan in value["scans"])
        return SupportIntensities(tuple(map(str, value["kinds"])), tuple(map(str, value["names"])), scans, organs)


def _share(channel: ChannelProfile, low: float, high: float) -> float:
    """Return about which share of a channel's voxels lies between two values, from its quantiles."""
    values = [channel.lowest, *channel.quantiles, channel.highest]
    shares = [0.0, *(p / 100 for p in PERCENTS), 1.0]
    return float(np.interp(high, values, shares) - np.interp(low, values, shares))


def check_intensities(
    data: CachedDataset,
    known: SupportIntensities,
    plan: Plan,
    support: Sequence[str],
    others: Sequence[str],
    any_intensities: bool = False,
) -> None:
    """Raise DataError if a support scan does not fit the rest of the support, or one of ``others`` does not fit the support.

    ``known`` holds the intensities of ``support``, in this order. With ``any_intensities``, and for differences that are
    probably harmless, a warning is logged instead.
    """
    cases = {case.name: case for case in data.cases}
    found: dict[str, Misfit] = {}
    whole = [{"name": case, "profile": scan.to_json()} for case, scan in zip(support, known.scans, strict=True)]
    if len(support) > 2 and (mixed := mixed_intensities({"modality": known.kinds}, whole)):
        if not any_intensities:
            raise DataError(f"{data.name}, the support scans: {mixed}")
        log.warning("%s, the support scans: %s", data.name, mixed)
    for place, case in enumerate(support):
        rest = known.scans[:place] + known.scans[place + 1 :]
        if rest and (problem := misfit(known.scans[place], rest, known.kinds, known.names, "the other support scans")):
            found[case] = problem
    for case in others:
        profile = cases[case].profile
        if profile and (problem := known.misfit(profile, plan, "the support scans")):
            found[case] = problem
    report_misfits(data.name, found, any_intensities)


def report_misfits(dataset: str, found: Mapping[str, Misfit], any_intensities: bool) -> None:
    """Raise DataError for the misfits (by case) that are refused; log the others, and all with ``any_intensities``."""
    refused = [case for case, problem in found.items() if problem.refused and not any_intensities]
    if refused:
        more = f" ({len(refused) - 1} more: {', '.join(refused[1:6])})" if len(refused) > 1 else ""
        raise DataError(f"{dataset}, {refused[0]}: {found[refused[0]].refusal}{more}")
    for case, problem in found.items():
        log.warning("%s, %s: %s", dataset, case, problem.text)
