"""Checks of the cases of a data set against each other: voxel sizes and intensities in other units than those of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .dataset import BadCase
from .intensities import ScanProfile
from .intensity_check import Misfit, ct_units, misfit, two_orders
from .units import in_other_units, usual_spacing

#: a scan's intensities are compared with this many others of its data set, spread evenly
_OTHERS = 20


def odd_cases(meta: Mapping[str, Any], entries: Sequence[dict[str, Any]], any_intensities: bool = False) -> list[BadCase]:
    """Return the cases that cannot be meant to be in one data set with the others, with the reason.

    ``meta`` names the data set, the kinds and names of its channels; ``entries`` describe its cases as in the cache.
    """
    bad = _in_other_units(meta["name"], entries)
    if any_intensities:
        return bad
    if mixed := mixed_intensities(meta, entries):  # then every scan differs from most others
        return [*bad, BadCase(meta["name"], "", mixed)]
    found = intensity_misfits(meta, entries)
    return bad + [BadCase(meta["name"], case, problem.refusal) for case, problem in found.items() if problem.refused]


def intensity_misfits(meta: Mapping[str, Any], entries: Sequence[dict[str, Any]]) -> dict[str, Misfit]:
    """Return, by case, how the intensities of a scan differ from those of the others; older entries have none to compare."""
    known = {entry["name"]: ScanProfile.from_json(entry["profile"]) for entry in entries if "profile" in entry}
    if len(known) < 3:
        return {}  # with two cases, either may be the wrong one
    found = {}
    names = list(known)
    for place, case in enumerate(names):
        rest = names[:place] + names[place + 1 :]
        rest = rest[:: -(-len(rest) // _OTHERS)]
        problem = misfit(known[case], [known[n] for n in rest], meta["modality"], meta.get("channel_names", ()))
        if problem:
            found[case] = problem
    return found


def mixed_intensities(meta: Mapping[str, Any], entries: Sequence[dict[str, Any]]) -> str:
    """Return a sentence if the scans are of different kinds and none is that of most, so that no scan can be called the wrong one."""
    return _mixed_units(meta, entries) or _mixed_orders(entries)


def _mixed_orders(entries: Sequence[dict[str, Any]]) -> str:
    known = [entry for entry in entries if "profile" in entry]
    profiles = [ScanProfile.from_json(entry["profile"]) for entry in known]
    usual = [number for number, profile in enumerate(profiles) if len(profile.channels) == len(profiles[0].channels)]
    groups = two_orders([profiles[number] for number in usual])
    if not groups:
        return ""
    told = "; ".join(_some([known[usual[place]]["name"] for place in group]) for group in groups)
    return f"its scans have two orders of channels ({told}). Give all the same, or accept them with --any-intensities"


def _mixed_units(meta: Mapping[str, Any], entries: Sequence[dict[str, Any]]) -> str:
    """Return a sentence if no units are those of most CT scans, so that no scan can be called the wrong one."""
    profiles = {entry["name"]: ScanProfile.from_json(entry["profile"]) for entry in entries if "profile" in entry}
    for channel, kind in enumerate(meta["modality"]):
        if kind.upper() != "CT":
            continue
        units = {case: ct_units(profile.channels[channel]) for case, profile in profiles.items()}
        known = Counter(unit for unit in units.values() if unit != "unknown")
        if len(known) > 1 and 2 * known.most_common(1)[0][1] <= sum(known.values()):
            told = "; ".join(
                f"{unit}: {_some([case for case, own in units.items() if own == unit])}" for unit, _ in known.most_common()
            )
            return f"its CT scans have different units ({told}). Convert them to HU, or accept them with --any-intensities"
    return ""


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join([*names[:limit], *([f"{len(names) - limit} more"] if len(names) > limit else [])])


def intensity_notes(meta: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each case whose intensities differ from those of the others, for the table of ``prepare``."""
    return [f"{case}: {problem.text}" for case, problem in intensity_misfits(meta, meta["cases"]).items()]


def _in_other_units(name: str, entries: Sequence[dict[str, Any]]) -> list[BadCase]:
    """Return the cases whose voxel size differs by far from that of most others.

    One such scan in the support spoils the plan of all scans, and after resampling it looks like any other.
    """
    if len(entries) < 3:
        return []  # with two cases, either may be the wrong one
    usual = usual_spacing(entry["spacing"] for entry in entries)
    found = {entry["name"]: in_other_units(entry["spacing"], usual, "most cases") for entry in entries}
    return [BadCase(name, case, problem) for case, problem in found.items() if problem]
