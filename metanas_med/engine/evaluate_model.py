"""``evaluate``: scores an adapted model on the labelled scans of a data set, as whole volumes in their own geometry."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..data.cached import CachedDataset
from ..data.notes import warn_of_notes
from ..errors import CheckpointError, DataError
from ..ignored import known_only
from ..privacy import case_id
from ..tasks.organ import organ_map
from .evaluate import check_out, evaluate_arrays
from .intensities import report_misfits
from .model import Model
from .support import annotated_counts, open_dataset, warn_of_copies, warn_of_lacks

log = logging.getLogger(__name__)


def evaluate(
    model: Model | Path | str,
    dataset: CachedDataset | Path | str,
    out: Path | str,
    limit: int | None = None,
    tta: bool | None = None,
    *,
    any_intensities: bool = False,
) -> dict[str, Any]:
    """Return the summary of ``model`` on ``dataset`` after writing ``metrics.csv`` and ``summary.json`` to ``out``.

    Organs are matched by name, label by label; their label values may differ. Patients of the model's support are left out and
    counted in the summary. They are recognised by their voxels, so renamed files do not matter. For older models without voxel
    hashes, ``adaptation.json`` is used: its identifiers, or, if the data set has the support's name, its case names. If neither
    is known, a warning and ``support_known`` in the summary say so. ``tta``: as in ``Model.segment``; the summary records it.
    Scans whose intensities do not fit those of the support are refused, unless ``any_intensities`` is set.
    An organ gets no row in a scan that does not annotate it; scans that annotate none of the model's organs are left out and
    counted. Without ``limit`` every case of a folder must be usable. With it, bad cases are left out with a warning.
    Raises DataError if ``out`` already holds an evaluation.
    """
    folder = None if isinstance(model, Model) else Path(model)
    loaded = model if isinstance(model, Model) else Model.load(model)
    tta = loaded.tta if tta is None else tta
    check_out(out)
    data = dataset if isinstance(dataset, CachedDataset) else open_dataset(dataset, skip_bad=limit is not None)
    try:
        task = loaded.task.on(data.name, data.labels, data.given_labels)
    except DataError as error:
        raise DataError(f"the model segments {list(loaded.task.names)}: {error}") from error
    named = set() if loaded.support else _support(folder, data, names=data.name == loaded.task.dataset)
    known = bool(named or loaded.support)
    if not known:
        log.warning("the model does not record its support scans; if %s contains them, they are scored as well", data.name)
    patients = {c.patient for c in data.cases if c.content_hash in loaded.support or c.name in named}
    left = [c for c in data.cases if c.patient not in patients]
    known_in = {c.name: [k for k in range(1, task.num_organs + 1) if k not in task.missing_in(c)] for c in left}
    cases = [c for c in left if known_in[c.name]][:limit]
    if not cases:
        why = f"; {len(left)} do not annotate {', '.join(task.names)}" if left else ""
        raise DataError(f"{data.name}: no labelled scan is left other than the support scans{why}")
    names = [c.name for c in cases]
    warn_of_notes(data, names)
    warn_of_lacks(data, task, (), names)
    warn_of_copies(data, (), names)
    for case in cases:
        if told := loaded.unfit(case.shape, case.spacing, tta):
            raise DataError(f"{data.name}, {case.name}: {told}")
    if known_values := loaded.intensities:
        if renamed := known_values.other_names(data.channel_names, data.modality):
            report_misfits("dataset.json", {data.name: renamed}, any_intensities)
        found = {c.name: problem for c in cases if c.profile and (problem := known_values.misfit(c.profile, loaded.plan))}
        report_misfits(data.name, found, any_intensities)

    def scored() -> Iterator[tuple[str, np.ndarray, np.ndarray, tuple[float, float, float]]]:
        for case in cases:
            found = loaded.segment(data.image(case.name), case.spacing, tta)
            truth, found = known_only(organ_map(data, task, case.name), found)
            yield case.name, loaded.label_values[truth], found, case.spacing

    organs = {int(loaded.label_values[k]): name for k, name in enumerate(task.names, start=1)}
    told_too: dict[str, Any] = {"num_support_left_out": len(data.cases) - len(left), "support_known": known, "tta": tta}
    if counts := annotated_counts(data, task, names):
        told_too["annotated"] = counts
        if unscored := [name for name, (number, _) in counts.items() if not number]:
            log.warning("no scan of %s annotates %s: it is not scored", data.name, ", ".join(unscored))
    if unused := sum(not found for found in known_in.values()):
        told_too["num_not_annotated_left_out"] = unused
    annotated = {c.name: {int(loaded.label_values[k]) for k in known_in[c.name]} for c in cases}
    content = {case.name: case.content_hash for case in cases}
    return evaluate_arrays(scored(), organs, out, told_too, annotated, content)


def _support(folder: Path | None, data: CachedDataset, names: bool) -> set[str]:
    """Return the cases of ``data`` that ``adaptation.json`` names as support: by identifier, or (``names``) by name.

    Empty if nothing is known.
    """
    note = folder / "adaptation.json" if folder else None
    if note is None or not note.exists():
        return set()
    try:
        listed = set(json.loads(note.read_text())["support"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{note} is damaged, but it names the support scans; restore it or adapt again") from error
    found = {case.name for case in data.cases if case_id(case.content_hash) in listed}
    return found | (listed if names and not any(name.startswith("case-") for name in listed) else set())
