"""The label-free part of a cell: steps on pretext tasks of scans of the site, before the few labelled ones are used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...data.cached import CachedDataset
from ...engine.meta_run import MetaRun
from ...engine.unlabelled import gather, learn_unlabelled
from ...errors import DataError
from ...pretext.settings import PretextSettings
from .guards import check_unlabelled

if TYPE_CHECKING:
    from .fit import Job


def learn_first(job: Job, start: MetaRun) -> tuple[MetaRun, dict[str, Any]]:
    """Return ``start`` after the label-free steps of the cell's method, and the note of them (``seconds``, ``steps``, ``num_scans``, ...).

    Scans are those of patients in neither support nor query (of any cell of the draw), or, for a transductive method, the query scans of
    the cell. Raises DataError where none is left, and where one is among them that must not be.
    """
    transductive = job.method.unlabelled == "query"
    names = list(job.query) if transductive else site_cases(job.dataset, job.support, job.held_back)
    settings = _for(job.settings.run.pretext, job.method.pretexts, job.dataset, names)
    scored = job.query if transductive else job.held_back
    source, which = gather(start, job.dataset, job.dataset, job.support, scored, settings, job.settings.plan, names)
    set_aside = source.set_aside.get(job.dataset.name, ())
    seen = [*source.usable[job.dataset.name], *set_aside]
    check_unlabelled(job.dataset, seen, job.support, job.query, job.held_back, transductive, which["same_as_scored"])
    begun = time.perf_counter()
    moved, done = learn_unlabelled(start, source, settings.steps, 10 * job.cell.draw + job.cell.seed, job.runtime)
    return moved, {**which, **done, "settings": settings.model_dump(mode="json"), "seconds": time.perf_counter() - begun}


def site_cases(dataset: CachedDataset, support: Sequence[str], query: Sequence[str]) -> list[str]:
    """Return the cases of patients in neither ``support`` nor ``query``; DataError where there is none."""
    patient = {c.name: c.patient for c in dataset.cases}
    used = {patient[n] for n in (*support, *query)}
    left = [c.name for c in dataset.cases if c.patient not in used]
    if not left:
        raise DataError(
            f"{dataset.name}: no unlabelled scan is left beside {len(support)} support and {len(query)} query case(s) of its "
            f"{len(set(patient.values()))} patient(s). Lower shots or num_query."
        )
    return left


def _for(settings: PretextSettings, names: Sequence[str], dataset: CachedDataset, cases: Sequence[str]) -> PretextSettings:
    """Return the settings with the method's own pretexts, and episodes of no more scans than there are patients."""
    patients = {c.patient for c in dataset.cases if c.name in set(cases)}
    return settings.model_copy(update={"names": tuple(names) or settings.names, "scans": min(settings.scans, len(patients))})
