"""The label-free part of ``adapt``: steps on pretext tasks of a site's unlabelled scans, before its labelled ones are used."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.cached import CachedDataset
from ..data.notes import warn_of_notes
from ..data.settings import PlanSettings
from ..errors import DataError, DivergedError
from ..learner import Context, FeatureLearner, NonFiniteLossError, Runtime
from ..learner.relaxations import start_relaxed
from ..meta import center_row
from ..pretext import PretextSource, build_source
from ..pretext.settings import PretextSettings
from .meta_run import MetaRun
from .scans import open_scans
from .shared_note import shared_name
from .solve import open_task
from .state import build_network, load_meta_state, meta_state

log = logging.getLogger(__name__)


def learn_from(
    run: MetaRun,
    unlabelled: CachedDataset | Path | str,
    data: CachedDataset,
    support: Sequence[str],
    scored: Sequence[str],
    settings: PretextSettings,
    plan: PlanSettings,
    seed: int,
    runtime: Runtime,
    names: Sequence[str] | None = None,
    search: bool = True,
) -> tuple[MetaRun, dict[str, Any]]:
    """Return ``run`` after ``settings.steps`` label-free steps on ``unlabelled`` scans, and a note about them.

    See ``gather`` and ``learn_unlabelled``.
    """
    scans = unlabelled if isinstance(unlabelled, CachedDataset) else open_scans(unlabelled)
    source, which = gather(run, scans, data, support, scored, settings, plan, names)
    start = time.perf_counter()
    moved, done = learn_unlabelled(run, source, settings.steps, seed, runtime, search=search)
    named = {*which["same_as_support"], *which["same_as_scored"]}
    which |= {"data_id": shared_name(scans), "content": {c.name: c.content_hash for c in scans.cases if c.name in named}}
    return moved, {**which, **done, "settings": settings.model_dump(mode="json"), "seconds": time.perf_counter() - start}


def gather(
    run: MetaRun,
    scans: CachedDataset,
    data: CachedDataset,
    support: Sequence[str],
    scored: Sequence[str],
    settings: PretextSettings,
    plan: PlanSettings,
    names: Sequence[str] | None = None,
) -> tuple[PretextSource, dict[str, Any]]:
    """Return the label-free episodes of ``scans`` (of the cases ``names``, or all) and a note about them.

    Scans of the ``support`` patients, or with the same voxels, are left out, because label-free steps must not use labelled
    scans. Scans of ``scored`` cases stay, and the note calls the result transductive. Patients are compared only within one
    data set, voxels always. Raises DataError for an unknown name or if too few scans are left.
    """
    known = {c.name for c in scans.cases}
    for name in names or ():
        if name not in known:
            raise DataError(f"{scans.name} has no case {name!r} among its {len(known)} unlabelled scans")
    given = [c.name for c in scans.cases if names is None or c.name in set(names)]
    in_support, in_scored = (_shared(scans, given, data, cases) for cases in (support, scored))
    left = [n for n in given if n not in in_support]
    warn_of_notes(scans, left)
    if in_support:
        log.warning("%s: left out %d unlabelled scan(s) that belong to the support", scans.name, len(in_support))
    if set(scans.modality) == {"unknown"} and len(scans.modality) == len(data.modality):
        # a plain folder does not state its modality; it comes from the same site as the labelled scans
        scans = CachedDataset(scans.path, {**scans.meta, "modality": list(data.modality)})
    source = build_source([scans], settings, plan, run.settings.space.levels, run.settings.space.dims, {scans.name: left})
    note = {
        "data": scans.name,
        "pretexts": list(settings.names),
        "num_scans": source.num_scans,
        "same_as_support": sorted(in_support),
        "same_as_scored": sorted(in_scored),
        "transductive": bool(in_scored),
        "patients_compared": scans.name == data.name,
    }
    return source, note


def learn_unlabelled(
    run: MetaRun,
    source: PretextSource,
    steps: int,
    seed: int,
    runtime: Runtime,
    on_step: Callable[[int, float], None] | None = None,
    search: bool = True,
) -> tuple[MetaRun, dict[str, Any]]:
    """Return ``run`` after ``steps`` steps of weights and (``search``) alphas on episodes of ``source``, and a note about them.

    These are the feature steps of meta-training (learner/features.py), with rates of ``source.settings`` and a cosine decay.
    Raises DivergedError if more than half of the episodes have a non-finite loss.
    """
    pretext = source.settings
    # always Adam: the pretext settings have one rate for all weights
    rates = {"optimizer": "adam", "lr": pretext.lr, "alpha_lr": pretext.alpha_lr}
    own = run.settings.features.model_copy(update={"head": "closed_form", **rates})
    every = max(own.steps, own.alpha_every) if pretext.alpha_lr and search else own.steps
    learner = FeatureLearner(own)
    net = build_network(run.settings.space, run.settings.seed).to(runtime.device)
    load_meta_state(net, run.state, run.buffers)
    relaxed = start_relaxed(run.settings.adapt)
    losses: list[float] = []
    tasks: list[str] = []
    num_bad = done = 0
    while done < steps:
        generator = np.random.default_rng([seed, 13, len(tasks)])
        episode = source.draw(generator)
        task, _ = open_task(episode, source.plan, generator)
        taken = min(every, steps - done)
        rate = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done / steps))
        tasks.append(episode.task.key)
        try:
            found = learner.run(net, task, Context(generator, runtime), rate, search, relaxed, taken)
        except NonFiniteLossError as error:
            num_bad += 1
            log.warning("skipped a label-free task of %s: %s", episode.task.key, error)
            found = []
        losses += found
        done += taken
        if on_step and found:
            on_step(done, found[-1])
    if 2 * num_bad > len(tasks):
        raise DivergedError(
            f"{num_bad} of {len(tasks)} label-free tasks had a non-finite loss. Lower pretext.lr, or check the unlabelled scans."
        )
    after = meta_state(net)
    moved = replace(run, state=replace(after, alphas={n: center_row(a) for n, a in after.alphas.items()}))
    note = {"steps": done, "episodes": len(tasks), "bad_tasks": num_bad, "losses": losses, "set_aside": source.num_set_aside}
    return moved, note | {"alpha_moved": _distance(run.state.alphas, moved.state.alphas)}


def _distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """Return the largest change of an alpha, with rows centred."""
    return max((float((center_row(one[n].cpu()) - a.cpu()).abs().max()) for n, a in other.items()), default=0.0)


def _shared(scans: CachedDataset, names: Sequence[str], data: CachedDataset, others: Sequence[str]) -> set[str]:
    """Return those of ``names`` that share a patient, or all voxels, with one of the cases ``others`` of ``data``."""
    cases, own = {c.name: c for c in scans.cases}, {c.name: c for c in data.cases}
    found = set()
    if scans.name == data.name:
        patients = {own[n].patient for n in others}
        found = {n for n in names if cases[n].patient in patients}
    contents = {own[n].content_hash for n in others}
    return found | {n for n in names if cases[n].content_hash in contents}
