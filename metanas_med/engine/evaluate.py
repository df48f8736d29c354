"""Evaluation of label maps: ``metrics.csv`` has a row per case and organ, ``summary.json`` the means and intervals.

Both hold identifiers of cases, so that they can be shared; ``cases.private.json`` has the names (privacy.py).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.case_check import content_hash
from ..data.case_names import without_suffix
from ..data.label_names import read_labels
from ..data.layouts import lenient_tree, volume_files
from ..data.notes import grouped_notes
from ..data.options import STRICT, ReadOptions
from ..data.pairing import place_label
from ..data.volumes import read_label
from ..errors import DataError
from ..files import atomic_folder, check_folder, write_csv, write_json
from ..ownership import check_owned
from ..privacy import CaseIds
from .metrics import METRICS, NSD_MM, case_metrics, interval_of, nsd_tolerance, summarize

log = logging.getLogger(__name__)

#: Name, truth (X, Y, Z), prediction (X, Y, Z), both with label values, and spacing (3,) in mm.
ScoredCase = tuple[str, NDArray[Any], NDArray[Any], Sequence[float]]
_ROWS, _SUMMARY = "metrics.csv", "summary.json"
COLUMNS = ("case", "organ", "label", *METRICS, "truth_voxels", "predicted_voxels", "tolerance_mm")


def evaluate_folder(
    predictions: Path | str,
    labels: Path | str,
    out: Path | str,
    organs: Mapping[int, str] | None = None,
    options: ReadOptions = STRICT,
) -> dict[str, Any]:
    """Return the summary of the label maps in ``predictions`` against those of the same name in ``labels``; write it to ``out``.

    ``organs`` names the label values to evaluate (default: every value found in ``labels``, as ``label_1`` and so on).
    A label without a prediction is a missed case; a prediction without a label is listed and left out. Of ``options``,
    ``labels_like_images`` gives labels of a prediction's shape the geometry of the prediction. Voxels with the value that the
    dataset.json around ``labels`` names "ignore" are left out.
    Raises DataError, before anything is written, if a pair differs in shape or affine or ``out`` already holds an evaluation.
    """
    check_out(out)
    truths, guesses = _label_maps(Path(labels)), _label_maps(Path(predictions))
    if not truths:
        raise DataError(f"{labels}: no label maps; expected files that end with .nii.gz, .nrrd or .mha")
    ignore = _ignored_value(Path(labels))
    missing = [case for case in truths if case not in guesses]
    extra = [case for case in guesses if case not in truths]
    for case in missing:
        for other in (f"{case}_0000", case.removesuffix("_0000")):
            if other in extra:
                raise DataError(
                    f"{predictions}: found {guesses[other].name} for the label {truths[case].name}; _0000 is the channel in names of "
                    "nnU-Net. Give both the same name"
                )
    if len(missing) == len(truths):
        raise DataError(
            f"{predictions}: no file has the name of a file in {labels}, such as {truths[missing[0]].name}; expected equal names"
        )
    if missing:
        log.warning("%d of %d cases have no prediction and count as missed: %s", len(missing), len(truths), _some(missing))
    if extra:
        log.warning("%d predictions have no label and are left out: %s", len(extra), _some(extra))
    if organs is None:
        found = sorted({int(value) for path in truths.values() for value in np.unique(read_label(path)[0])} - {0, ignore})
        organs = {value: f"label_{value}" for value in found}
        if not organs:
            raise DataError(f"{labels}: all label maps are empty; expected at least one organ voxel")
    notes: dict[str, list[str]] = {}
    summary = evaluate_arrays(
        _read_pairs(truths, guesses, options, notes, ignore),
        organs,
        out,
        {"missing_predictions": missing, "extra_predictions": extra},
    )
    for line in grouped_notes(notes):
        log.warning("%s: %s", labels, line)
    return summary


def check_out(out: Path | str) -> None:
    """Raise DataError if ``out`` holds an evaluation, a model or a run, StorageError if it is not writable; called before the work."""
    check_folder(out)
    if any((Path(out) / name).exists() for name in ("model.json", "last.json")):  # whose local file with names would be lost
        raise DataError(f"{out} holds a model or a run. Choose another --out.")
    if any((Path(out) / name).exists() for name in (_ROWS, _SUMMARY)):
        raise DataError(f"{out} already holds an evaluation. Choose another --out, or remove it.")


def evaluate_arrays(
    cases: Iterable[ScoredCase],
    organs: Mapping[int, str],
    out: Path | str,
    notes: Mapping[str, Any] | None = None,
    annotated: Mapping[str, Collection[int]] | None = None,
    content: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the summary of ``cases`` over ``organs`` (label value to name), with ``notes`` added.

    Writes ``metrics.csv`` (a row per case and organ), ``summary.json`` and ``cases.private.json`` to the folder ``out``;
    ``cases`` is read one by one. In the first two files, identifiers replace names. They are made from ``content``, the scans'
    hashes by name; without a scan, from the voxels of its label. ``annotated``: by case, the label values that have a row; all
    by default.
    """
    rows: list[dict[str, Any]] = []
    ids = CaseIds()
    predicted: set[int] = set()
    for name, truth, prediction, spacing in cases:
        predicted |= {int(value) for value in np.unique(prediction)}
        known = organs if annotated is None else {value: organ for value, organ in organs.items() if value in annotated[name]}
        identifier = ids.add(name, (content or {}).get(name) or content_hash(truth[None]))
        rows += _case_rows(identifier, truth, prediction, spacing, known)
    if not rows:
        raise DataError("nothing to evaluate: expected at least one case and one organ")
    if unknown := predicted - {0, *organs}:
        log.warning("predicted label values %s are not among the organs and are left out", sorted(unknown))
    held = {row["label"] for row in rows if row["truth_voxels"]}
    if absent := [organs[value] for value in sorted(held - predicted)]:
        log.warning(
            "no prediction contains %s. Label maps of a union contain only its first label value; to score a union, use "
            "'metanas-med evaluate MODEL DATASET'",
            ", ".join(absent),
        )
    summary = _summary(rows) | dict(notes or {})
    check_owned(out)
    check_out(out)  # once more: the folder may have changed while the cases were scored
    with atomic_folder(out) as draft:
        write_csv(draft / _ROWS, rows, COLUMNS)
        told = {key: value if key not in (notes or {}) else _shared(ids, value) for key, value in summary.items()}
        write_json(draft / _SUMMARY, told)
        ids.write(draft)
    return summary


def _shared(ids: CaseIds, value: Any) -> Any:
    """Return a value of the notes with identifiers for names; a list of names may have cases that were not scored."""
    if isinstance(value, list):
        for name in value:
            ids.add(str(name), content_hash(np.frombuffer(os.urandom(16), np.uint8)[None, :, None, None]))
    return ids.shared(value)


def _case_rows(
    name: str, truth: NDArray[Any], prediction: NDArray[Any], spacing: Sequence[float], organs: Mapping[int, str]
) -> list[dict[str, Any]]:
    tolerance = nsd_tolerance(spacing)
    rows = []
    for value, organ in organs.items():
        metrics = case_metrics(truth == value, prediction == value, spacing, tolerance)
        del metrics["empty_truth"]  # follows from truth_voxels
        rows.append({"case": name, "organ": organ, "label": value, **metrics, "tolerance_mm": round(tolerance, 6)})
    return rows


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    # organs of one patient are not independent: the overall interval resamples cases, each with its mean over organs
    cases: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        cases.setdefault(row["case"], []).append(row)
    overall = {name: interval_of([float(np.mean([row[name] for row in own])) for own in cases.values()]) for name in METRICS}
    return {
        "num_cases": len(cases),
        "organs": summarize(rows),
        "all_organs": overall,
        "interval": "95 % percentile bootstrap of the mean over cases, 2000 resamples",
        "nsd_tolerance": f"{NSD_MM:g} mm, or the middle voxel edge if that is larger (column tolerance_mm)",
    }


def _read_pairs(
    truths: Mapping[str, Path], guesses: Mapping[str, Path], options: ReadOptions, notes: dict[str, list[str]], ignore: int | None
) -> Iterator[ScoredCase]:
    """Yield the cases one by one; what was assumed about a case's geometry is added to ``notes``.

    Voxels whose label is ``ignore`` are background in both maps.
    """
    for case, path in truths.items():
        truth, affine = read_label(path)
        prediction = np.zeros_like(truth)
        if case in guesses:
            prediction, where = read_label(guesses[case])
            x, y, z = prediction.shape
            placed = place_label(guesses[case], (x, y, z), where, path, truth, affine, options.labels_like_images)
            truth, affine = placed.labels, placed.affine
            if placed.note:
                notes[case] = [placed.note]
        if ignore is not None:
            ignored = truth == ignore
            truth, prediction = np.where(ignored, 0, truth), np.where(ignored, 0, prediction)
        yield case, truth, prediction, np.linalg.norm(affine[:3, :3], axis=0).tolist()


def _ignored_value(folder: Path) -> int | None:
    """Return the label value that the dataset.json of the data set around a folder of label maps names as ignored; None: none."""
    tree = lenient_tree(folder.parent / "dataset.json")
    try:
        return read_labels(folder.parent / "dataset.json", tree).ignore if tree else None
    except DataError:
        return None


def _label_maps(folder: Path) -> dict[str, Path]:
    """Return case names and their files in ``folder``, sorted; hidden files (such as ``._*``) are not cases."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with label maps (.nii.gz, .nrrd, .mha)")
    if lenient_tree(folder / "dataset.json") and not volume_files(folder):
        raise DataError(f"{folder}: this is a data set, expected a folder of label maps; give {folder / 'labelsTr'}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        case = without_suffix(path.name)
        if path.name.startswith(".") or path.name == case:
            continue
        if case in found:
            raise DataError(f"{folder}: found {found[case].name} and {path.name}, expected one file per case; remove one of them")
        found[case] = path
    return found


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
