"""Dice at equal multiply-adds: the searched architecture, uniform alphas, 3x3x3 kernels only, random architectures; on phantoms.

Every contender has as many multiply-adds, on one reference view, as the architecture that the search found for the first
support set. Random architectures are drawn until they fit; the two others get the closest widths. Two starts are compared:

*meta-learned*: the three search spaces are meta-trained for the same time without the organ, then all contenders adapt with
the same number of steps. Random architectures take the weights of the searched one's supernet, which has trained the found
architecture alone since the commitment. The found architecture is also trained *while adapting*: as in ``adapt``, half of the
same steps are spent on the search.

*fresh*: new weights for the same architectures, and the same, larger number of steps for each.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.cache import CachedDataset, open_caches, prepare
from ...data.phantom import make_phantoms
from ...engine.adapt import adapt_episode, score
from ...engine.checkpoint import code_revision
from ...engine.meta_run import MetaRun
from ...engine.meta_train import meta_train
from ...engine.settings import Settings, load_settings
from ...errors import ConfigError
from ...learner import Runtime, choose_runtime
from ...learner.discretizers import NoneSettings
from ...resources import find_resource
from ...space import cost, genotype_multiply_adds, random_genotype_of_cost, supernet_multiply_adds
from ...space.settings import SpaceSettings
from ...tasks.episode import Episode, make_episode
from ...tasks.organ import task_in
from ..grid.cases import query_cases, support_cases
from .process import provenance

#: the organ that no meta-training sees
HELD_OUT = "Phantom04_Lobes"


@dataclass(frozen=True)
class DiceBench:
    """How long each part is trained and how often."""

    seconds: float = 30.0  #: of each of the three meta-trainings
    meta_steps: int = 20
    fresh_steps: int = 60
    seeds: int = 3  #: of support sets, fresh weights and random architectures
    draws: int = 3  #: random architectures a seed
    cases: int = 10
    query: int = 4
    scale: float = 0.6  #: of the phantoms' voxels along an axis


@dataclass(frozen=True)
class Setup:
    """What all contenders share; costs are counted on the view of ``reference``."""

    settings: Settings
    dataset: CachedDataset
    query: list[str]
    reference: Episode
    runtime: Runtime


@dataclass(frozen=True)
class Contender:
    """What is trained: a meta-trained run, with a fixed architecture or none, and the learner's settings that differ."""

    name: str
    run: MetaRun
    learner: dict[str, Any]
    draw: int = 0
    starts: tuple[str, ...] = ("meta-learned", "fresh")


def dice_at_equal_cost(out: Path, bench: DiceBench) -> list[dict[str, Any]]:
    """Return a row for each contender, start, seed and draw. Phantoms, cache and meta-trained runs stay in ``out``."""
    settings, runtime = _settings(out), choose_runtime()
    folders = make_phantoms(out / "phantoms", settings.seed, bench.cases, bench.scale, overwrite=True)
    prepare(folders, settings.cache)
    dataset = open_caches(settings.cache)[HELD_OUT]
    query = query_cases(dataset, bench.query)
    episodes = [_episode(settings, dataset, query, seed) for seed in range(bench.seeds)]
    reference = episodes[0]
    setup = Setup(settings, dataset, query, reference, runtime)
    searched = _meta_train(settings, out, "searched", bench.seconds)
    first = _found(setup, searched, reference, 0, bench.meta_steps)
    target = genotype_multiply_adds(first, reference.plan.view, reference.plan.strides)
    uniform = _meta_train(resized(settings, reference, target, "merged"), out, "uniform", bench.seconds)
    plain = _meta_train(resized(settings, reference, target, "plain"), out, "plain", bench.seconds)
    rows = []
    for seed, episode in enumerate(episodes):
        genotype = first if seed == 0 else _found(setup, searched, episode, seed, bench.meta_steps)
        contenders = [
            *_fixed_contenders(searched, uniform, plain, genotype),
            *_random_contenders(searched, target, reference, seed, bench.draws),
        ]
        for contender in contenders:
            for start in contender.starts:
                steps = bench.fresh_steps if start == "fresh" else bench.meta_steps
                rows.append(_row(setup, contender, start, steps, episode, seed))
    return rows


def _settings(out: Path) -> Settings:
    settings = load_settings(find_resource("configs", "phantoms"))
    tasks = settings.tasks.model_copy(update={"hold_out": (HELD_OUT,)})
    return settings.model_copy(update={"cache": str(out / "cache"), "tasks": tasks})


def _episode(settings: Settings, dataset: CachedDataset, query: list[str], seed: int) -> Episode:
    """Return the support set of a seed, drawn from people outside ``query``."""
    task = task_in(dataset)
    support = support_cases(dataset, task, 5, seed, query)
    return make_episode(dataset, task, support, [], settings.plan, settings.space.levels)


def _meta_train(settings: Settings, out: Path, name: str, seconds: float) -> MetaRun:
    """Return a run meta-trained for ``seconds``; a finished run of the same code and settings is used again."""
    meta = settings.meta.model_copy(update={"iterations": 100_000, "max_seconds": seconds, "validate_every": 100_000})
    settings = settings.model_copy(update={"meta": meta.model_copy(update={"num_validation": 0})})
    folder = out / f"meta_{name}_{code_revision().replace('+', '-changed')}"
    if not (folder / "last.json").exists() or MetaRun.load(folder).settings != settings:
        while folder.exists():
            folder = folder.with_name(folder.name + "-again")
        meta_train(settings, folder)
    return MetaRun.load(folder)


def resized(settings: Settings, reference: Episode, target: int, edge: str) -> Settings:
    """Return settings whose network has about ``target`` multiply-adds: with 3x3x3 kernels, or a supernet with alphas at 0."""
    found: list[tuple[float, SpaceSettings]] = []
    for base in range(2, 2 * settings.space.base_width):

        def space(widest: int, base: int = base) -> SpaceSettings:
            return settings.space.model_copy(update={"edge": edge, "base_width": base, "max_width": widest})

        @cache
        def counted(widest: int, space: Callable[[int], SpaceSettings] = space) -> int:
            return supernet_multiply_adds(space(widest), reference.plan.view, reference.plan.strides)

        # the count grows with the widest level; of widths that fit equally well, those that double for longest are the last
        widths = range(base, 4 * base + 1)
        reached = min(bisect_left(widths, target, key=counted), len(widths) - 1)
        last = bisect_right(widths, counted(widths[reached]), key=counted) - 1
        for widest in {widths[max(reached - 1, 0)], widths[last]}:
            found.append((abs(counted(widest) - target) / target - 1e-4 * widest / base, space(widest)))
    # nothing is searched, so there is no commitment: uniform alphas stay uniform
    learner = settings.learner.fixed(discrete=False)
    meta = settings.meta.model_copy(update={"commit": 1.0})
    return settings.model_copy(update={"space": min(found, key=lambda each: each[0])[1], "learner": learner, "meta": meta})


def _found(setup: Setup, run: MetaRun, episode: Episode, seed: int, steps: int) -> dict[str, Any]:
    """Return the architecture that the search finds for a support set."""
    learner = setup.settings.adapt.model_copy(update={"steps": steps, "alpha": "adapt"})
    _, report, _ = adapt_episode(run, episode, learner, setup.settings.plan, seed, setup.runtime)
    assert report.genotype is not None
    return report.genotype


def _fixed_contenders(searched: MetaRun, uniform: MetaRun, plain: MetaRun, genotype: dict[str, Any]) -> Iterator[Contender]:
    frozen = {"alpha": "frozen"}
    yield Contender("searched", searched.with_genotype(genotype), frozen)
    yield Contender("searched while adapting", searched, {"alpha": "adapt"}, starts=("meta-learned",))
    yield Contender("all alphas uniform", uniform, {**frozen, "discretizer": NoneSettings()})
    yield Contender("3x3x3 only", plain, frozen)


def _random_contenders(searched: MetaRun, target: int, reference: Episode, seed: int, draws: int) -> Iterator[Contender]:
    generator = torch.Generator().manual_seed(1000 + seed)
    for draw in range(draws):
        found = _random(searched.settings.space, target, reference, generator)
        yield Contender("random", searched.with_genotype(found), {"alpha": "frozen"}, draw)


def _random(space: SpaceSettings, target: int, reference: Episode, generator: torch.Generator) -> dict[str, Any]:
    for tolerance in (0.05, 0.1, 0.2, 0.4):
        try:
            view, strides = reference.plan.view, reference.plan.strides
            return random_genotype_of_cost(space, target, tolerance, view, strides, generator, tries=1000)
        except ConfigError:
            continue
    raise ConfigError(f"no random architecture has about {target:.3g} multiply-adds in this space")


def _row(setup: Setup, contender: Contender, start: str, steps: int, episode: Episode, seed: int) -> dict[str, Any]:
    """Return one contender's row after training it on a support set and segmenting the query scans."""
    run = contender.run.fresh(2000 + seed) if start == "fresh" else contender.run
    settings, dataset, runtime = setup.settings, setup.dataset, setup.runtime
    learner = settings.adapt.model_copy(update={"steps": steps, **contender.learner})
    model, report, _ = adapt_episode(run, episode, learner, settings.plan, seed, runtime)
    scores = score(model, dataset, setup.query)
    counted = cost(model.net.body, setup.reference.plan.view, setup.reference.plan.strides)
    values = [float(np.mean(list(organs.values()))) for organs in scores.values()]
    space = run.settings.space
    return {
        "start": start,
        "contender": contender.name,
        "support": seed,
        "draw": contender.draw,
        "steps": steps,
        "dice": round(float(np.mean(values)), 4),
        "dice_by_scan": " ".join(f"{value:.4f}" for value in values),
        "multiply_adds": counted["multiply_adds"],
        "parameters": counted["parameters"],
        "base_width": space.base_width,
        "max_width": space.max_width,
        "meta_seconds": run.settings.meta.max_seconds if start == "meta-learned" else 0,
        "seconds": round(report.seconds, 2),
        "organ": dataset.name,
        "precision": "bfloat16" if runtime.bfloat16 else "float32",
        **provenance(seed, runtime),
    }
