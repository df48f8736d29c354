"""Preparation of data set folders: every case is checked, all bad cases are listed, and cache files are written atomically.

The cached image does not depend on labels: canonical orientation, native spacing, raw intensities, affine and content box.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import DataError
from ..files import atomic_path
from ..ownership import owned
from .annotated import annotates
from .cached import FORMAT, open_cache, patients_of, same_voxels
from .cached import CachedCase as CachedCase
from .cached import CachedDataset as CachedDataset
from .cached import open_caches as open_caches
from .case_check import CheckedCase, check_case, file_stats, source_hash
from .dataset import BadCase, Case, Dataset, Pairs, survey_dataset, survey_pairs
from .notes import grouped_notes
from .options import STRICT, ReadOptions
from .scans import survey_scans
from .set_check import intensity_notes, odd_cases

log = logging.getLogger(__name__)

#: how a folder is read
Survey = Callable[[Path], tuple[Dataset, list[BadCase]]]
_CHUNK = 32  # voxels per axis: a patch of 40 touches at most 27 chunks
_HDF5_MARGIN = 1 << 18  # bytes for HDF5's own tables, on top of the 2 % that grow with the number of chunks


class BadCases(DataError):
    """Some cases cannot be used; ``rows`` lists all of them."""

    def __init__(self, rows: Sequence[BadCase], labels: bool = True) -> None:
        self.rows = tuple(rows)
        self.table = [{"data set": row.dataset, "case": row.case, "problem": row.problem} for row in rows]
        first = self.rows[0]
        place = f"{first.dataset}, {first.case}" if first.case else first.dataset
        if not labels:
            advice = "Fix the scans, or remove them from the folder (and from dataset.json, if there is one)."
        elif not any(row.case for row in self.rows):  # whole data sets are unusable: there is no case to set aside
            advice = "Fix it and run the command again."
        else:
            advice = (
                "Fix the data, or set the bad cases aside with 'metanas-med prepare --skip-bad DATASET --cache DIR' "
                "and pass DIR/NAME.h5 as the data set."
            )
        super().__init__(
            f"{len(self.rows)} problem(s) in the data; nothing was written. First problem: {place}: {first.problem}\n{advice}"
        )


@dataclass(frozen=True)
class Prepared:
    """One row of the table that ``prepare`` shows; ranges are (lowest, highest) per axis."""

    name: str
    group: str
    modality: tuple[str, ...]
    cases: int
    patients: int
    patients_known: bool
    labels: dict[int, str]
    shape_range: tuple[tuple[int, ...], tuple[int, ...]]  #: X, Y, Z, voxels
    spacing_range: tuple[tuple[float, ...], tuple[float, ...]]  #: mm
    seconds: float
    status: str  #: built, fresh, or "set aside" when no usable case is left
    notes: tuple[str, ...]
    bad: tuple[BadCase, ...] = ()  #: the cases that skip_bad set aside
    channel_names: tuple[str, ...] = ()  #: as written in dataset.json; empty for a plain folder
    headers: tuple[str, ...] = ()  #: those of ``notes`` that are about headers


class _Discard(Exception):
    """Ends a draft without keeping its file."""


def prepare(
    roots: Sequence[Path | str],
    cache: Path | str,
    skip_bad: bool = False,
    workers: int = 2,
    progress: Callable[[str, int, int], None] | None = None,
    labels: bool = True,
    options: ReadOptions = STRICT,
    pairs: Pairs | None = None,
) -> list[Prepared]:
    """Return one row per data set, after writing ``<cache>/<name>.h5`` for each data set that has changed.

    Every case of every data set is checked. If any is bad and ``skip_bad`` is not set, raises BadCases and writes nothing.
    ``progress(dataset, cases done, total cases)`` is called after each case. Without ``labels`` only images are read, and a
    plain folder of scans is accepted as well (see ``scans.survey_scans``). A folder that is given several times under one
    name counts once. ``options`` accept what is refused by default. ``pairs`` are prepared instead of ``roots``.
    """
    survey: Survey = partial(survey_dataset if labels else survey_scans, options=options)
    if pairs is not None:
        roots, survey = [pairs.images], lambda root: survey_pairs(pairs, options)
    rows: list[Prepared] = []
    # threads suffice: zlib, hashing and NumPy's loops release the interpreter lock, and arrays are not copied between processes
    with ExitStack() as drafts, ThreadPoolExecutor(max(1, workers)) as pool:
        for root in _each_once(without_files(roots)):
            taken = {row.name for row in rows}
            rows.append(_prepare_one(root, Path(cache), taken, pool, workers, drafts, progress, survey, options))
        bad = [problem for row in rows for problem in row.bad]
        if bad and not skip_bad:
            raise BadCases(bad, labels)  # an error makes every open draft drop its file
    return rows


def without_files(roots: Sequence[Path | str]) -> list[Path | str]:
    """Return ``roots`` without the files that a pattern such as ``data/*`` names in addition to folders, and log those."""
    files = [root for root in roots if Path(root).is_file()]
    if not files or len(files) == len(roots):  # files alone are a mistake that is reported
        return list(roots)
    log.warning("passed over %d file(s), expected folders: %s", len(files), ", ".join(str(file) for file in files))
    return [root for root in roots if root not in files]


def _each_once(roots: Sequence[Path | str]) -> list[Path]:
    """Return the folders of ``roots`` without repetitions, such as ``data/X/`` after ``data/*``."""
    found: dict[tuple[str, str], Path] = {}
    for root in roots:  # the key includes the name: a link to the same folder under another name is another data set
        found.setdefault((Path(os.path.abspath(root)).name, os.path.realpath(root)), Path(root))
    return list(found.values())


def _prepare_one(
    root: Path,
    cache: Path,
    taken: set[str],
    pool: ThreadPoolExecutor,
    num_ahead: int,
    drafts: ExitStack,
    progress: Callable[[str, int, int], None] | None,
    survey: Survey,
    options: ReadOptions,
) -> Prepared:
    start = time.perf_counter()
    try:
        dataset, bad = survey(root)
        if dataset.name in taken:
            raise DataError(f"{root}: another data set has the same name; rename the folder")
    except DataError as error:
        name = Path(os.path.abspath(root)).name
        return _row({"name": name, "cases": [], "set_aside": [_plain(BadCase(name, "", str(error)))]}, "set aside", start)
    path = cache / f"{dataset.name}.h5"
    if known := _fresh(path, dataset, bad, options):
        return _row(known, "fresh", start)
    if other := _elsewhere(path, dataset):
        raise DataError(
            f"{root}: {path} already holds a data set of the same name, from {other}. "
            "Rename one folder, or choose another --cache"
        )
    # until all data sets are written: with a lock for each, two jobs with the same data sets could wait for each other
    drafts.enter_context(owned(cache, "cache", wait=True))
    if known := _fresh(path, dataset, bad, options):  # another job has written it in the meantime
        return _row(known, "fresh", start)
    stats = {case.name: _stats(case) for case in dataset.cases}  # before the voxels are read, as for good cases
    draft = drafts.enter_context(ExitStack())
    temporary = draft.enter_context(atomic_path(path))
    entries: list[dict[str, Any]] = []
    with h5py.File(temporary, "w") as file:
        for done, (case, checked) in enumerate(_in_order(pool, dataset, num_ahead, options), 1):
            if isinstance(checked, DataError):
                bad.append(BadCase(dataset.name, case.name, str(checked)))
            else:
                _write_case(file, case.name, checked)
                entries.append(checked.entry)
            if progress:
                progress(dataset.name, done, len(dataset.cases))
        for case in odd_cases(_source(dataset, options), entries, options.any_intensities):
            bad.append(case)
            if not case.case:  # the whole data set
                continue
            entries = [entry for entry in entries if entry["name"] != case.case]
            for kind in file.values():
                del kind[case.case]
        meta = _meta(dataset, entries, bad, options, stats)
        _write_meta(file, meta)
    if not entries:
        with suppress(_Discard), draft:
            raise _Discard
    return _row(meta, "built" if entries else "set aside", start)


def _in_order(
    pool: ThreadPoolExecutor, dataset: Dataset, num_ahead: int, options: ReadOptions
) -> Iterator[tuple[Case, CheckedCase | DataError]]:
    """Yield each case in order with its arrays or its error; only a few cases are in memory at a time."""
    waiting: deque[tuple[Case, Future[CheckedCase | DataError]]] = deque()
    for case in dataset.cases:
        waiting.append((case, pool.submit(check_case, case, dataset, options)))
        if len(waiting) > num_ahead:
            first, result = waiting.popleft()
            yield first, result.result()
    for case, result in waiting:
        yield case, result.result()


def _reserve(folder: Path, num_bytes: int) -> None:
    """Return if ``num_bytes`` and HDF5's own tables fit on the disk, else raise OSError (no space, quota)."""
    # HDF5 cannot recover from a failed write: the process ends with a segmentation fault. Fail before that.
    wanted = num_bytes + num_bytes // 50 + _HDF5_MARGIN
    if not hasattr(os, "posix_fallocate"):  # macOS and Windows: this check does not see quotas
        if shutil.disk_usage(folder).free < wanted:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return
    with tempfile.TemporaryFile(dir=folder) as scratch:
        os.posix_fallocate(scratch.fileno(), 0, wanted)


def _write_case(file: h5py.File, name: str, checked: CheckedCase) -> None:
    arrays = {"images": checked.image} | ({} if checked.label is None else {"labels": checked.label})
    _reserve(Path(file.filename).parent, sum(array.nbytes for array in arrays.values()))
    for kind, array in arrays.items():
        chunks = (1,) * (array.ndim - 3) + tuple(min(_CHUNK, size) for size in array.shape[-3:])
        file.require_group(kind).create_dataset(
            name, data=np.ascontiguousarray(array), chunks=chunks, compression="lzf", shuffle=True, fletcher32=True
        )
    file.flush()


def _write_meta(file: h5py.File, meta: dict[str, Any]) -> None:
    # an HDF5 dataset, because an attribute holds at most 64 KiB; chunked, because only chunks have checksums
    content = np.frombuffer(json.dumps(meta, allow_nan=False).encode(), dtype=np.uint8)
    _reserve(Path(file.filename).parent, len(content))
    file.create_dataset("meta", data=content, chunks=content.shape, fletcher32=True)
    file.attrs["format"] = FORMAT


def _stats(case: Case) -> list[list[Any]] | None:
    """Return size and time of a case's files; None if one of them cannot be found."""
    try:
        return file_stats(case)
    except OSError:
        return None


def _meta(
    dataset: Dataset, entries: list[dict[str, Any]], bad: list[BadCase], options: ReadOptions, stats: dict[str, Any]
) -> dict[str, Any]:
    """Return the description of the data set that its cache file stores; organs without a voxel are added to ``bad``.

    Such organs keep their names: scans without a lesion can test a model of lesions. ``stats``: of the files of each case.
    """
    held = {int(value) for entry in entries for value in entry["label_voxels"]}
    if entries:
        bad += [
            BadCase(
                dataset.name,
                "",
                f"empty organ {name!r}: no case has a voxel of label {value}. Correct dataset.json, or accept it with "
                f"'metanas-med prepare --skip-bad' if these scans should not show it",
            )
            for value, name in dataset.labels.items()
            if value not in held
        ]
    source = _source(dataset, options)
    good = {entry["name"] for entry in entries}
    return {
        **source,
        "root": str(dataset.root),  # not part of the source: a data set that was moved is the same
        "cases": entries,
        "source": source,
        "set_aside": [_plain(row) for row in bad],
        "any_intensities": options.any_intensities,  # decides what is set aside
        "bad_stats": {name: stat for name, stat in stats.items() if name not in good},
    }


def _source(dataset: Dataset, options: ReadOptions) -> dict[str, Any]:
    """Return everything except the scans that determines a cache file's content."""
    return {
        "name": dataset.name,
        "group": dataset.group,
        "related": list(dataset.related),
        "modality": list(dataset.modality),
        "channel_names": list(dataset.channel_names),
        "labels": {str(value): name for value, name in dataset.labels.items()},
        "given_labels": {str(value): name for value, name in dataset.given_labels.items()},
        "patients_known": dataset.patients_known,
        "patients": {case.name: case.patient for case in dataset.cases},
        "licence": dataset.licence,
        "description": dataset.description,
        **({"labels_like_images": True} if options.labels_like_images else {}),
        # absent in data sets that have none, as in older caches
        **({"ignore": dataset.ignore} if dataset.ignore is not None else {}),
        **({"snomed": dataset.snomed} if dataset.snomed else {}),
        **({"regions": {name: list(values) for name, values in dataset.regions.items()}} if dataset.regions else {}),
        **(
            {"splits": [{part: list(names) for part, names in fold.items()} for fold in dataset.splits]} if dataset.splits else {}
        ),
        **({"annotated": marked} if (marked := _marked(dataset)) else {}),  # the key is absent if all organs are annotated
    }


def _marked(dataset: Dataset) -> dict[str, list[int]]:
    return {case.name: list(case.annotated) for case in dataset.cases if case.annotated is not None}


def _plain(row: BadCase) -> dict[str, str]:
    return {"dataset": row.dataset, "case": row.case, "problem": row.problem}


def _fresh(path: Path, dataset: Dataset, bad: list[BadCase], options: ReadOptions) -> dict[str, Any] | None:
    """Return the metadata of a cache file that is up to date, else None."""
    if not path.is_file():
        return None
    try:
        meta = open_cache(path).meta
    except DataError as error:
        log.info("%s; rebuilding it", error)
        return None
    known, bad_stats = meta["set_aside"], meta.get("bad_stats", {})  # older caches do not know the files of bad cases
    listed = [_plain(row) for row in bad]
    if meta["source"] != _source(dataset, options) or any(row not in known for row in listed):
        return None
    if any(row["case"] and row not in listed and row["case"] not in bad_stats for row in known):
        return None  # a problem of the list of files was fixed
    # caches of older versions were written without these checks, and others with more tolerance
    if known and meta.get("any_intensities", False) != options.any_intensities:
        return None
    if any("profile" not in entry for entry in meta["cases"]) or (
        not known and odd_cases(meta, meta["cases"], options.any_intensities)
    ):
        return None
    entries = {entry["name"]: entry for entry in meta["cases"]}
    try:
        for case in dataset.cases:
            if case.name in bad_stats:
                if bad_stats[case.name] != _stats(case):  # it may be fixed now
                    return None
                continue
            entry = entries[case.name]
            if entry["stat"] != file_stats(case) and entry["source_hash"] != source_hash(case):
                return None
    except (KeyError, OSError):
        return None
    return meta


def _elsewhere(path: Path, dataset: Dataset) -> Path | None:
    """Return the folder that a cache file was made from if it still exists and is not the folder of ``dataset``, else None."""
    try:
        meta = open_cache(path).meta
        old = Path(meta["cases"][0]["stat"][0][0])
        root = Path(meta.get("root", old.parent.parent))  # older caches do not name it
    except (DataError, LookupError, TypeError, ValueError):
        return None
    here = dataset.cases[0].image if dataset.cases else None
    if here is None or not old.exists() or os.path.realpath(root) == os.path.realpath(dataset.root):
        return None
    return root


def _row(meta: dict[str, Any], status: str, start: float) -> Prepared:
    entries = meta["cases"]
    labels = {int(value): name for value, name in meta.get("labels", {}).items()}
    shapes = np.array([entry["shape"] for entry in entries] or [[0, 0, 0]])
    spacings = np.round([entry["spacing"] for entry in entries] or [[0.0, 0.0, 0.0]], 3)
    notes = []
    if entries and not meta["patients_known"]:
        notes.append("each file counts as a patient")
    notes += [f"{', '.join(names)} hold the same voxels: they count as one patient" for names in same_voxels(entries)]
    if entries and not meta["source"]["labels"]:
        notes.append("no label was read")
    elif empty := [entry["name"] for entry in entries if not entry["label_voxels"]]:
        notes.append(f"{len(empty)} case(s) without any organ: {', '.join(empty[:3])}")
    if any("annotated" in entry for entry in entries):
        for value, name in labels.items():
            if (number := sum(annotates(entry.get("annotated"), (value,)) for entry in entries)) < len(entries):
                notes.append(f"{number} of {len(entries)} cases annotate {name}")
    notes += [
        f"region {name}: {' + '.join(labels[value] for value in values)}; fit it with --organ {shlex.quote(name)}"
        for name, values in meta.get("regions", {}).items()
    ]
    if folds := meta.get("splits"):
        notes.append(f"{len(folds)} fold(s) in splits_final.json, the first with {len(folds[0]['val'])} case(s) to validate")
    # not a bad case: some data sets store zeros for a missing sequence; older caches lack this field
    if flat := [entry["name"] for entry in entries if entry.get("flat_channels")]:
        notes.append(f"{len(flat)} case(s) with a constant image or channel: {', '.join(flat[:3])}; check them")
    notes += intensity_notes(meta) if entries else []
    headers = grouped_notes({entry["name"]: entry.get("notes", ()) for entry in entries})
    notes += headers
    if meta["set_aside"]:
        notes.append(f"{len(meta['set_aside'])} problem(s)")
    return Prepared(
        name=meta["name"],
        group=meta.get("group", ""),
        modality=tuple(meta.get("modality", ())),
        cases=len(entries),
        patients=len(set(patients_of(entries).values())),
        patients_known=meta.get("patients_known", False),
        labels=labels,
        shape_range=(tuple(shapes.min(0).tolist()), tuple(shapes.max(0).tolist())),
        spacing_range=(tuple(spacings.min(0).tolist()), tuple(spacings.max(0).tolist())),
        seconds=time.perf_counter() - start,
        status=status,
        notes=tuple(notes),
        bad=tuple(BadCase(**row) for row in meta["set_aside"]),
        channel_names=tuple(meta.get("channel_names", ())),
        headers=headers,
    )
