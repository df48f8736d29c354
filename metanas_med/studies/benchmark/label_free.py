"""The label-free part of a cell: steps on pretext tasks of the site's scans, before the few labelled scans are used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ...data.cached import CachedDataset
from ...engine.meta_run import MetaRun
from ...engine.unlabelled import gather, learn_unlabelled
from ...errors import DataError
from ...pretext.settings import PretextSettings
from ..grid.cases import other_patients
from .guards import check_unlabelled
from .job import Job


def learn_first(job: Job, start: MetaRun) -> tuple[MetaRun, dict[str, Any]]:
    """Return ``start`` after the label-free steps of the cell's method, and a note (``seconds``, ``steps``, ``num_scans``, ...).

    Scans come from patients in neither support nor query of any cell of the draw. A transductive method uses the cell's query
    scans. Raises DataError where no scan is left, and where a scan that must not be seen is among them.
    """
    transductive = job.method.unlabelled == "query"
    names = list(job.query) if transductive else site_cases(job.dataset, job.support, job.held_back)
    settings = _for(job.settings.run.pretext, job.method.pretexts, job.dataset, names)
    scored = job.query if transductive else job.held_back
    source, which = gather(start, job.dataset, job.dataset, job.support, scored, settings, job.settings.plan, names)
    set_aside = source.set_aside.get(job.dataset.name, ())
    seen = [*source.usable.get(job.dataset.name, ()), *set_aside]
    check_unlabelled(job.dataset, seen, job.support, job.query, job.held_back, transductive, which["same_as_scored"])
    begin = time.perf_counter()
    moved, done = learn_unlabelled(start, source, settings.steps, 10 * job.cell.draw + job.cell.seed, job.runtime)
    return moved, {**which, **done, "settings": settings.model_dump(mode="json"), "seconds": time.perf_counter() - begin}


def site_cases(dataset: CachedDataset, support: Sequence[str], query: Sequence[str]) -> list[str]:
    """Return the cases of patients in neither ``support`` nor ``query``; DataError where there is none."""
    left = other_patients(dataset, (*support, *query))
    if not left:
        raise DataError(
            f"{dataset.name}: no unlabelled scan is left: {len(support)} support and {len(query)} query case(s) use all "
            f"{len({c.patient for c in dataset.cases})} patient(s). Lower shots or num_query."
        )
    return left


def _for(settings: PretextSettings, names: Sequence[str], dataset: CachedDataset, cases: Sequence[str]) -> PretextSettings:
    """Return the settings with the method's own pretext tasks, and episodes of no more scans than there are patients."""
    patients = {c.patient for c in dataset.cases if c.name in set(cases)}
    return settings.model_copy(update={"names": tuple(names) or settings.names, "scans": min(settings.scans, len(patients))})
