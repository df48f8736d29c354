"""What makes a benchmark worthless, as checks that raise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...config import BenchmarkGroup, BenchmarkSettings
from ...data.cached import CachedDataset
from ...data.cards import held_out_datasets
from ...errors import ConfigError, DataError
from ...files import write_json
from ..adapt import MetaRun

#: settings that say where and how fast a run is made, not what it is
_NOT_FROZEN = ("device", "threads", "cache", "track")


def check_patients(dataset: CachedDataset, support: Sequence[str], query: Sequence[str]) -> None:
    """Raise DataError where a patient stands in support and query."""
    patient = {c.name: c.patient for c in dataset.cases}
    shared = {patient[n] for n in support} & {patient[n] for n in query}
    if shared:
        raise DataError(f"{dataset.name}: {len(shared)} patient(s) in support and query at once. Split by patient.")


def check_held_out(datasets: Mapping[str, CachedDataset], run: MetaRun, dataset: str) -> None:
    """Raise DataError where a meta-trained run has seen ``dataset``, or anything that is related to it."""
    own = datasets[dataset]
    related = held_out_datasets([own.name, own.group], [(d.name, d.group, d.related) for d in datasets.values()])
    seen = {key.split("/", 1)[0] for key in run.train_tasks}
    both = sorted(seen & (set(related) | {dataset}))
    if both:
        raise DataError(
            f"{dataset} was to be held out, but meta-training saw {', '.join(both)}. Hold out all that is related to it."
        )


def frozen_settings(settings: BenchmarkSettings) -> dict[str, Any]:
    """Return what a test cell depends on, as JSON values: recipe, plan, and which cases are scored."""
    run = settings.run.model_dump(mode="json", exclude=set(_NOT_FROZEN))
    rest = settings.model_dump(mode="json", include={"plan", "groups", "num_query", "curve_query", "curve_steps"})
    return {"run": run, **rest}


def check_frozen(settings: BenchmarkSettings, frozen: BenchmarkSettings, groups: Sequence[BenchmarkGroup]) -> None:
    """Raise ConfigError where cells of a test group would be made under other settings than the frozen file's, or than earlier ones.

    The settings under which the first of them were made are kept beside the cells.
    """
    test = [g.name for g in groups if not g.development]
    if not test:
        return
    path, given = Path(settings.out) / "frozen.json", frozen_settings(settings)
    earlier = json.loads(path.read_text()) if path.exists() else given
    for other, where in (
        (frozen_settings(frozen), "the frozen configuration"),
        (earlier, f"{path}, under which earlier cells were made"),
    ):
        different = _different(given, other)
        if different:
            raise ConfigError(
                f"test groups ({', '.join(test)}) are run with the frozen settings alone; {different[0]} differs from {where}. "
                "Choose settings on development groups (--only NAME), then freeze them in the file and begin in another --out."
            )
    if not path.exists():
        write_json(path, given)


def _different(one: Any, other: Any, place: str = "") -> list[str]:
    """Return the places at which two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(set(one) | set(other))
        return [p for key in keys for p in _different(one.get(key), other.get(key), f"{place}.{key}".lstrip("."))]
    return [] if one == other else [place]
