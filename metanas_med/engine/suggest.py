"""``suggest``: which scans of a folder to annotate, chosen so that their features cover the features of all scans."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.cached import CachedDataset
from ..data.dataset import BadCase
from ..data.intensities import profile_of
from ..data.notes import grouped_notes
from ..data.options import STRICT, ReadOptions
from ..data.plan import Plan
from ..data.set_check import intensity_notes, mixed_intensities
from ..data.unlabelled import Scan, UnlabelledScans, misfit, plan_without_labels, unlabelled_scans
from ..errors import ConfigError, DataError
from ..files import check_folder, write_csv, write_json
from ..learner import Runtime, choose_runtime
from ..learner.relaxations import start_relaxed
from ..space.network import SegmentationNet
from .checkpoint import code_revision
from .cover import METHODS, Array, cover, feature_distances, random_covers
from .meta_run import MetaRun
from .seen import seen_in_training
from .settings import Settings
from .state import build_network, load_meta_state, meta_state

log = logging.getLogger(__name__)

#: number of random choices that a suggestion is compared with
_RANDOM = 200


@dataclass(frozen=True)
class Described:
    """Scans with their features (n, F), the plan of these features, and the scans that were set aside."""

    scans: tuple[Scan, ...]
    features: Array
    plan: Plan
    set_aside: tuple[BadCase, ...]
    seconds: float  #: for all scans: reading, planning and the network


def suggest_scans(
    place: CachedDataset | Path | str,
    shots: int = 5,
    run: MetaRun | Path | str | None = None,
    method: str = "k-medoids",
    *,
    modality: str | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    on_scan: Callable[[int, int], None] | None = None,
    options: ReadOptions = STRICT,
) -> dict[str, Any]:
    """Return a ranking of ``shots`` scans of ``place`` to annotate, and how it was computed, as JSON values.

    ``place``: a folder in MSD layout, a folder of NIfTI files, or a prepared data set; labels are never read. ``run`` is a
    meta-trained state, its folder, or the name of a shipped start; without one the network has random weights. ``method``:
    "k-medoids" (low mean distance of all scans to the nearest chosen one) or "k-centre" (low maximum distance; a shorter list is
    a prefix of a longer one). ``out`` (``.json`` or ``.csv``) is written at the end. Raises DataError if there are fewer usable
    scans than shots. Cost: one read and one forward pass per scan.
    """
    if method not in METHODS:
        raise ConfigError(f"found method {method!r}, expected one of {', '.join(METHODS)}")
    out = Path(out) if out else None
    if out and out.suffix not in (".json", ".csv"):
        raise ConfigError(f"{out}: expected a name that ends with .json or .csv")
    if out:
        check_folder(out.parent)
    run = run if run is None or isinstance(run, MetaRun) else MetaRun.open(run)
    found = unlabelled_scans(place, modality, options)
    _check_enough(found, shots, len(found.scans), found.set_aside)
    start = run or random_run()
    described = describe(found, start, choose_runtime(device, "float32"), on_scan)
    _check_enough(found, shots, len(described.scans), described.set_aside)
    for line in grouped_notes({scan.name: scan.notes for scan in described.scans}):
        log.warning("%s: %s", found.name, line)
    distances = feature_distances(described.features)
    chosen = METHODS[method](distances, shots)
    note = {
        "code": code_revision(),
        "place": found.name,
        "method": method,
        "shots": shots,
        "meta_checkpoint": run.sha256 if run else None,
        "seen_in_training": seen_in_training(found, run) if run else [],
        "modality": list(found.modality),
        "patients_known": found.patients_known,
        "ranking": _ranking(described.scans, distances, chosen),
        "coverage": _coverage(distances, chosen),
        "num_scans": len(described.scans),
        "num_read": len(found.scans),
        "set_aside": {s.case: s.problem for s in described.set_aside},
        "plan": described.plan.to_json(),
        "seconds": described.seconds,
    }
    if out and out.suffix == ".json":
        write_json(out, note)
    elif out:
        write_csv(out, [{**row, "stands_for": " ".join(row["stands_for"])} for row in note["ranking"]])
    return note


def describe(
    found: UnlabelledScans, run: MetaRun, runtime: Runtime, on_scan: Callable[[int, int], None] | None = None
) -> Described:
    """Return the features of the scans of ``found`` under a plan made from all of them.

    Scans that are damaged, or too small or too large for the plan, are set aside. ``on_scan(done, total)`` is called after each.
    """
    begun = time.perf_counter()
    view_voxels = run.settings.plan.view_voxels
    plan = plan_without_labels(found.scans, found.modality, view_voxels, run.settings.space.levels)
    net = _network(run, len(found.modality), runtime)
    kept, rows, profiles, aside = [], [], [], list(found.set_aside)
    for number, scan in enumerate(found.scans, 1):
        reason = misfit(scan, plan, view_voxels)
        if not reason:
            try:
                image = scan.read()
                rows.append(pooled_features(net, plan.apply_image(image, scan.spacing), plan, runtime))
                kept.append(scan)
                profiles.append({"name": scan.name, "profile": profile_of(image).to_json()})
            except DataError as error:
                reason = str(error)
        if reason:
            aside.append(BadCase(found.name, scan.name, reason))
        if on_scan:
            on_scan(number, len(found.scans))
    _warn_of_intensities(found, profiles)
    features = np.stack(rows) if rows else np.zeros((0, 2 * sum(net.body.widths)))
    return Described(tuple(kept), features, plan, tuple(aside), time.perf_counter() - begun)


def _warn_of_intensities(found: UnlabelledScans, profiles: Sequence[dict[str, Any]]) -> None:
    """Warn about scans whose intensities do not fit those of the others: their features differ for this reason alone."""
    meta = {"name": found.name, "modality": found.modality}
    told = [mixed] if (mixed := mixed_intensities(meta, profiles)) else intensity_notes({**meta, "cases": profiles})
    for line in told:
        log.warning("%s: %s", found.name, line.removesuffix(", or accept them with --any-intensities"))


@torch.inference_mode()
def pooled_features(net: SegmentationNet, image: Tensor, plan: Plan, runtime: Runtime) -> Array:
    """Return mean and standard deviation over voxels of each channel of each decoder level, (2 * sum of widths,) float64.

    ``image`` (C, X, Y, Z) is a whole planned scan.
    """
    with runtime.autocast():
        levels = net.features(runtime.place(image[None]), plan.strides)
    # pooled by level and channel: the number of features does not depend on strides or scan size
    flat = [level[0].double().flatten(1).cpu() for level in levels]
    return torch.cat([part for f in flat for part in (f.mean(1), f.std(1, correction=0))]).numpy()


def random_run() -> MetaRun:
    """Return a state with random weights of the default network, the same at every call."""
    settings = Settings()
    return MetaRun(settings, meta_state(build_network(settings.space, settings.seed)), {}, "", (), ())


def _network(run: MetaRun, num_channels: int, runtime: Runtime) -> SegmentationNet:
    net = build_network(run.settings.space, run.settings.seed).to(runtime.device)
    load_meta_state(net, run.state, run.buffers)
    net.start_task(num_channels, 1)
    net.body.relax(start_relaxed(run.settings.learner))  # as at the start of a meta-training task
    return net.eval()


def _check_enough(found: UnlabelledScans, shots: int, number: int, aside: Sequence[BadCase]) -> None:
    if shots < 1:
        raise DataError(f"{found.name}: {shots} shots were asked for, expected at least one")
    if number < shots:
        why = f"; {len(aside)} set aside, the first: {aside[0].case}: {aside[0].problem}" if aside else ""
        raise DataError(
            f"{found.name}: {shots} shots were asked for, found {number} usable scan(s){why}. Lower --shots or add scans."
        )


def _ranking(scans: Sequence[Scan], distances: Array, chosen: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row per chosen scan: the scans it represents (those it is nearest to) and their distances."""
    found, rows = cover(distances, chosen), []
    for place, index in enumerate(chosen):
        own = [i for i, nearest in enumerate(found.nearest) if nearest == place]
        away = [found.distances[i] for i in own]
        rows.append(
            {
                "rank": place + 1,
                "scan": scans[index].name,
                "share": len(own) / len(scans),
                "mean_distance": float(np.mean(away)),
                "farthest": max(away),
                "stands_for": [scans[i].name for i in own if i != index],
            }
        )
    return rows


def _coverage(distances: Array, chosen: Sequence[int]) -> dict[str, float]:
    """Return mean and maximum distance of all scans to the nearest chosen one, and their averages over random choices."""
    found, drawn = cover(distances, chosen), random_covers(distances, len(chosen), _RANDOM)
    return {
        "mean": found.mean,
        "farthest": found.farthest,
        "random_mean": float(np.mean([c.mean for c in drawn])),
        "random_farthest": float(np.mean([c.farthest for c in drawn])),
    }
