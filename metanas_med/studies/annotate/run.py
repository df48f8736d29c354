"""Adapt to supports chosen by their features and to random ones, on organs with labels, and score whole query volumes.

The query cases are fixed first. Supports come from scans of other patients; features are computed from images alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...data.cached import CachedDataset
from ...data.settings import PlanSettings
from ...data.unlabelled import unlabelled_scans
from ...engine.adapt import adapt_episode, score
from ...engine.checkpoint import code_revision
from ...engine.cover import METHODS, Cover, cover, feature_distances
from ...engine.meta_run import MetaRun
from ...engine.seen import seen_in_training
from ...engine.suggest import describe
from ...errors import CheckpointError, DataError
from ...files import read_csv, write_csv
from ...learner import choose_runtime
from ...tasks.episode import check_patients, make_episode
from ...tasks.organ import OrganTask, task_in
from ..grid.cases import hash_names, query_cases, support_cases, without_patients_of
from ..grid.frozen import hash_settings
from .report import Row


@dataclass(frozen=True)
class Annotation:
    """What is measured on one data set: ``draws`` random supports, and ``seeds`` adaptations of each chosen support."""

    dataset: CachedDataset
    organ: str = "all"
    shots: int = 5
    draws: int = 8
    seeds: int = 4
    num_query: int = 10
    steps: int = 20
    alpha: str = "frozen"
    plan: PlanSettings = field(default_factory=lambda: PlanSettings(view_voxels=32768))

    @property
    def task(self) -> OrganTask:
        return task_in(self.dataset, self.organ)


def run_study(study: Annotation, run: MetaRun, out: Path, device: str = "auto") -> list[Row]:
    """Return the rows of ``out``/annotate.csv after adding what ``study`` lacks: one row an adaptation and query case.

    The rows of an adaptation are written when it is done. Raises DataError where ``run`` was trained on the data set or on a
    related one, and CheckpointError where the file holds rows of this data set from other runs or settings.
    """
    path, data = out / "annotate.csv", study.dataset
    if seen := seen_in_training(unlabelled_scans(data), run):
        raise DataError(f"{data.name} was to be held out, but meta-training saw {', '.join(seen)}. Give a run that held it out.")
    query = query_cases(data, study.num_query)
    learner = run.settings.adapt.model_copy(update={"steps": study.steps, "alpha": study.alpha})
    same: dict[str, Any] = {
        "dataset": data.name, "organ": study.organ, "shots": study.shots, "steps": study.steps, "alpha": study.alpha,
        "query_hash": hash_names(query), "checkpoint": run.sha256[:16], "settings": hash_settings(learner, study.plan),
    }  # fmt: skip
    rows: list[Row] = [*read_csv(path)] if path.exists() else []
    mine = [r for r in rows if (r["dataset"], r["organ"]) == (data.name, study.organ)]
    if any(str(r.get(key)) != str(value) for r in mine for key, value in same.items()):
        raise CheckpointError(f"{path} holds rows of {data.name} of another run or other settings. Choose another --out.")
    done = {(r["choice"], int(r["seed"])) for r in mine}
    wanted = [job for job in _jobs(study) if job not in done]
    if not wanted:
        return rows
    supports, covers = choose_supports(study, run, query, wanted, device)
    for choice, seed in wanted:
        support, found = supports[choice, seed], covers[choice, seed]
        check_patients(data, support, query)
        episode = make_episode(data, study.task, support, [], study.plan, run.settings.space.levels)
        model, report, _ = adapt_episode(run, episode, learner, study.plan, seed, choose_runtime(device))
        scores = score(model, data, query)
        rows += [
            {
                **same,
                "choice": choice,
                "seed": seed,
                "case": number,
                "dice": round(float(np.mean(list(scores[name].values()))), 5),
                "mean_distance": round(found.mean, 4),
                "farthest": round(found.farthest, 4),
                "seconds": round(report.seconds, 2),
                "support_hash": hash_names(support),
                "code": code_revision(),
            }
            for number, name in enumerate(query)
        ]
        write_csv(path, rows)
    return rows


def _jobs(study: Annotation) -> Iterator[tuple[str, int]]:
    """Yield (choice, seed) in an order in which a study that stops early is a smaller study of the same kind."""
    for seed in range(max(study.draws, study.seeds)):
        if seed < study.draws:
            yield "random", seed
        if seed < study.seeds:
            for method in METHODS:
                yield method, seed


def choose_supports(
    study: Annotation, run: MetaRun, query: Sequence[str], jobs: Sequence[tuple[str, int]], device: str
) -> tuple[dict[tuple[str, int], list[str]], dict[tuple[str, int], Cover]]:
    """Return the support of each job (choice, seed), and how it covers the scans of patients outside ``query``."""
    data = study.dataset
    described = describe(unlabelled_scans(without_patients_of(data, query)), run, choose_runtime(device, "float32"))
    names = [s.name for s in described.scans]
    if len(names) <= study.shots:
        raise DataError(
            f"{data.name}: found {len(names)} scan(s) outside the query, expected more than {study.shots} to choose from"
        )
    distances = feature_distances(described.features)
    chosen = {method: [names[i] for i in choose(distances, study.shots)] for method, choose in METHODS.items()}
    supports, covers = {}, {}
    for choice, seed in jobs:
        support = chosen.get(choice) or support_cases(data, study.task, study.shots, seed, query)
        supports[choice, seed] = support
        covers[choice, seed] = cover(distances, [names.index(n) for n in support if n in names])
    return supports, covers
