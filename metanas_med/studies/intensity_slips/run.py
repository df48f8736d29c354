"""Known slips made from real scans, and unchanged scans, each compared with random supports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from ...data.dataset import Dataset, read_dataset
from ...data.intensities import ScanProfile, profile_of
from ...data.intensity_check import ct_units, misfit
from ...data.nifti import read_image
from ...engine.checkpoint import code_revision
from ...files import write_csv, write_text
from ...report.tables import markdown_table

#: support scans that a scan is compared with
SHOTS = 5


def slips(kinds: Sequence[str]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return known slips as functions of an image (C, X, Y, Z), for channels of ``kinds``."""

    def windowed(low: float, high: float, top: float, kind: Any) -> Callable[[np.ndarray], np.ndarray]:
        return lambda image: ((image.clip(low, high) - low) / (high - low) * top).astype(kind)

    def whole_range(top: float, kind: Any) -> Callable[[np.ndarray], np.ndarray]:
        return lambda image: ((image - image.min()) / (image.max() - image.min()) * top).astype(kind)

    if len(kinds) > 1:
        orders = [order for order in permutations(range(len(kinds))) if order != tuple(range(len(kinds)))]
        return {f"channels {order}": lambda image, order=order: image[list(order)] for order in orders}
    if kinds[0] == "CT":
        return {
            "+ 1024": lambda image: image + 1024,
            "- 1024": lambda image: image - 1024,
            "+ 1000, from 0": lambda image: (image + 1000).clip(0),
            "-160..240 as 0..255": windowed(-160, 240, 255, np.uint8),
            "-1000..1000 as 0..255": windowed(-1000, 1000, 255, np.uint8),
            "0..80 as 0..255": windowed(0, 80, 255, np.uint8),
            "-1000..1000 as 0..1": windowed(-1000, 1000, 1, np.float32),
            "-160..240 as 0..1": windowed(-160, 240, 1, np.float32),
            "all as 0..1": whole_range(1, np.float32),
        }
    return {"all as 0..1": whole_range(1, np.float32), "- 1024": lambda image: image - 1024.0}


def intensity_slips(roots: Sequence[Path], out: Path, draws: int = 5) -> Path:
    """Return the path of ``out``/intensity_slips.md after comparing every scan with random supports, as it is and changed.

    A scan is compared with other scans of its data set; a CT scan that is alone in its data set, with CT scans of others.
    """

    known = [(dataset, list(_profiles(dataset))) for dataset in _read(roots)]
    rows = [{**row, "code": code_revision()} for row in _rows(known, draws)]
    write_csv(out / "intensity_slips.csv", rows)
    write_text(out / "intensity_slips.md", page(rows))
    return out / "intensity_slips.md"


def _read(roots: Sequence[Path]) -> Iterator[Dataset]:

    for root in sorted(roots, key=lambda root: root.name):
        if (root / "dataset.json").is_file():
            yield read_dataset(root)


def _profiles(dataset: Dataset) -> Iterator[ScanProfile]:

    for case in dataset.cases:
        yield profile_of(read_image(case.image)[0])


def _rows(known: Sequence[tuple[Dataset, list[ScanProfile]]], draws: int) -> Iterator[dict[str, Any]]:
    for dataset, own in known:
        for number, case in enumerate(dataset.cases):
            others = own[:number] + own[number + 1 :] or _like(known, dataset)
            if not others:
                continue
            place = {"dataset": dataset.name, "case": case.name, "kinds": "+".join(dataset.modality)}
            generator = np.random.default_rng([number, len(own)])
            supports = [
                [others[k] for k in generator.permutation(len(others))[: (SHOTS, SHOTS, 3, 2, 1)[draw % 5]]]
                for draw in range(draws)
            ]
            for draw, support in enumerate(supports):
                yield {**place, "slip": "none", "draw": draw, **_compared(own[number], support, dataset)}
            image = read_image(case.image)[0]
            image = image.astype(np.int32) if image.dtype.kind in "iu" else image
            for slip, change in slips(dataset.modality).items():
                yield {**place, "slip": slip, "draw": 0, **_compared(profile_of(change(image)), supports[0], dataset)}


def _compared(profile: ScanProfile, support: Sequence[ScanProfile], dataset: Dataset) -> dict[str, Any]:
    found = misfit(profile, support, dataset.modality, dataset.channel_names)
    return {
        "shots": len(support),
        "found": int(found is not None),
        "refused": int(bool(found and found.refused)),
    }


def _like(known: Sequence[tuple[Dataset, list[ScanProfile]]], dataset: Dataset) -> list[ScanProfile]:
    """Return CT scans in HU of other data sets, for a CT scan that is alone in its own."""

    if dataset.modality != ("CT",):
        return []
    scans = [p for other, own in known if other.modality == ("CT",) and other.name != dataset.name for p in own]
    return [p for p in scans if ct_units(p.channels[0]) == "HU"]


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page's text."""

    table: list[dict[str, Any]] = []
    keys = {(r["kinds"], "order of channels" if str(r["slip"]).startswith("channels") else r["slip"]) for r in rows}
    for kinds, slip in sorted(keys, key=lambda key: (key[1] != "none", key)):
        mine = [
            r for r in rows if r["kinds"] == kinds and slip in (r["slip"], "order of channels" * str(r["slip"]).startswith("ch"))
        ]
        found, refused = sum(int(r["found"]) for r in mine), sum(int(r["refused"]) for r in mine)
        scans = len({(r["dataset"], r["case"]) for r in mine})
        line = {"kinds": kinds, "slip": slip, "scans": scans, "comparisons": len(mine), "reported": found, "refused": refused}
        table.append(line)
    clean = [r for r in rows if r["slip"] == "none"]
    changed = [r for r in rows if r["slip"] != "none"]
    return (
        "# Slips of intensities\n\n"
        "Written by `metanas-med study intensity-slips DATASET... --out docs/results` from `intensity_slips.csv`. Every scan is "
        f"compared with random supports of 1 to {SHOTS} other scans, as it is (slip `none`) and changed.\n\n"
        f"- False alarms: {sum(int(r['found']) for r in clean)} of {len(clean)} comparisons.\n"
        f"- Slips found: {sum(int(r['found']) for r in changed)} of {len(changed)}.\n\n{markdown_table(table)}\n"
    )
