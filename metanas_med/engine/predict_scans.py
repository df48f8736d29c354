"""The job ``predict``: label maps of scans in their own geometry, and on demand probabilities and a table of volumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..data.case_names import SUFFIXES
from ..data.intensities import profile_of
from ..data.orientation import to_canonical
from ..data.volumes import read_image, read_label, read_notes, write_label, write_probabilities
from ..errors import ConfigError, DataError
from ..files import check_folder, clear_leftovers, write_csv
from ..ownership import owned
from .committee import Committee
from .intensities import report_misfits
from .model import Model, spacing_of
from .scan_files import ScanFiles, label_maps, names_in, scans_in
from .volumes_table import COLUMNS, volume_rows

log = logging.getLogger(__name__)

#: the folder of probabilities, in the folder of the label maps
PROBABILITIES = "probabilities"
Source = Model | Committee | Path | str


class BadScans(DataError):
    """Some scans cannot be segmented; ``problems`` holds the reason for each."""

    def __init__(self, problems: Sequence[str], num_scans: int) -> None:
        self.problems = tuple(problems)
        super().__init__(
            problems[0]
            if num_scans == 1
            else f"{len(problems)} of {num_scans} scans cannot be segmented, nothing was written; the first: {problems[0]}\n"
            + ("Fix them." if len(problems) == num_scans else "Fix them, or leave them out with --skip-bad.")
        )


class Writer(Protocol):
    """Writes further files of a label map, such as a DICOM segmentation (``export/dicom_seg.py``)."""

    def check(self, scans: Sequence[ScanFiles]) -> None: ...  # raises a UserError before the first scan is segmented
    def file(self, target: Path) -> Path: ...  # the file beside a label map
    def write(self, scan: ScanFiles, labels: np.ndarray, path: Path) -> None: ...  # labels (X, Y, Z) uint8, the scan's own axes


@dataclass(frozen=True)
class PredictOptions:
    """How ``predict`` treats scans and files that exist, and what it writes besides label maps."""

    overwrite: bool = False  #: replace label maps that exist, except for the scans themselves; one job at a time
    skip_bad: bool = False  #: leave out scans that cannot be segmented, with a warning
    skip_existing: bool = False  #: leave out scans whose files exist, and log their number: a stopped job continues
    tta: bool | None = None  #: as in ``Model.segment``
    any_intensities: bool = False  #: accept scans whose intensities do not fit those of the support scans
    probabilities: bool = False  #: write probabilities/NAME.nii.gz, (X, Y, Z, K + 1) float32: background, then the organs
    volumes: Path | str | None = None  #: write this CSV: ml, pieces and contact with the border, a row per scan and organ
    also: Writer | None = None  #: writes a further file for each label map
    part: tuple[int, int] = (1, 1)  #: (i, n): the i-th of n parts of the scans, for n processes


def predict(
    model: Source | Sequence[Model | Path | str],
    scans: Sequence[Path | str],
    out: Path | str,
    options: PredictOptions | None = None,
    *,
    on_scan: Callable[[int, int], None] | None = None,
    **given: Any,
) -> list[Path]:
    """Return the paths of label maps written to ``out`` for ``scans`` or folders of them, in each scan's own geometry.

    ``model`` is a model, its folder, or several of one organ, whose probabilities are averaged. ``out`` is a folder, or for a
    single scan the name of a file (``.nii``, ``.nii.gz``). A label map has the name of its scan; if scans of several folders have
    the same file name, that of its folder. ``given`` are fields of ``PredictOptions``. All scans are checked before the first is
    segmented: BadScans lists those that cannot be segmented. Raises DataError if a file would replace an existing one, and
    ConfigError for options that exclude each other. ``on_scan(done, total)`` is called after each scan.
    """
    options = options or PredictOptions(**given)
    _check_options(options)
    committee, out = _open(model), Path(out)
    every = label_maps(scans_in(scans), out)
    folder = next(iter(every.values())).parent
    number, of = options.part
    targets = dict(list(every.items())[number - 1 :: of])
    if options.also:
        options.also.check(list(targets))
    for member in committee.models:
        _check_names(member, scans, options.any_intensities)
    # another job stops before it replaces a label map; with --overwrite the maps of two models would be mixed
    with owned(folder, "predict") if options.overwrite else nullcontext():
        check_folder(folder)
        clear_leftovers(folder)  # of predictions that were killed
        _check_targets(targets, out, options)
        left = _left(targets, out, options) if options.skip_existing else list(targets)
        problems = {scan: problem for scan in left if (problem := _problem(scan, committee, options))}
        if problems and (not options.skip_bad or len(problems) == len(targets)):
            raise BadScans(tuple(problems.values()), len(targets))
        for problem in problems.values():
            log.warning("left out: %s", problem)
        left = [scan for scan in left if scan not in problems]
        for scan in left:
            for note in read_notes(scan.files):
                log.warning("%s: %s", scan.path, note)
        written: list[Path] = []
        for done, scan in enumerate(left, start=1):
            written += _segment(scan, targets[scan], committee, options)
            if on_scan:
                on_scan(done, len(left))
        if options.volumes is not None:
            _write_volumes(Path(options.volumes), targets, committee)
        return written


def _open(model: Source | Sequence[Model | Path | str]) -> Committee:
    if isinstance(model, Committee):
        return model
    given = [model] if isinstance(model, Model | Path | str) else list(model)
    return Committee([one if isinstance(one, Model) else Model.load(one) for one in given], [str(one)[:80] for one in given])


def _check_options(options: PredictOptions) -> None:
    number, of = options.part
    if options.overwrite and options.skip_existing:
        raise ConfigError("--overwrite and --skip-existing exclude each other. Give one of the two.")
    if not 1 <= number <= of:
        raise ConfigError(f"--part {number}/{of}: expected i/n with i from 1 to n, such as 1/4")
    if options.volumes is not None and Path(options.volumes).exists() and not (options.overwrite or options.skip_existing):
        raise DataError(f"{options.volumes} exists already. Choose another --volumes, or give --overwrite or --skip-existing.")
    if options.volumes is not None and Path(options.volumes).suffix != ".csv":
        raise ConfigError(f"--volumes {options.volumes}: expected the name of a .csv file")


def _segment(scan: ScanFiles, target: Path, committee: Committee, options: PredictOptions) -> list[Path]:
    """Return the label map of a scan if it was written: not where another job has written it in the meantime."""
    if _is_taken(target, options):
        return []
    array, affine = read_image(scan.files)
    image, canonical, orientation = to_canonical(array, affine)
    if any(channel.min() == channel.max() for channel in array):
        log.warning("%s: the image, or one of its channels, has the same value in all voxels; check it", scan.path)
    planned = np.ascontiguousarray(image, dtype=np.float32)
    labels, shares = committee.segment(planned, spacing_of(canonical), options.tta, options.probabilities)
    if _is_taken(target, options):
        return []
    if shares is not None:  # first: a label map that exists says that its scan is done
        own = np.moveaxis(orientation.undo(shares.numpy()), 0, -1)
        (target.parent / PROBABILITIES).mkdir(parents=True, exist_ok=True)
        write_probabilities(probabilities_of(target), np.ascontiguousarray(own), scan.path)
    labels = np.ascontiguousarray(orientation.undo(labels))
    if options.also:
        options.also.write(scan, labels, options.also.file(target))
    if target.exists() and not options.overwrite:  # only further files were absent
        return []
    write_label(target, labels, scan.path)
    log.info("%s", target)
    return [target]


def probabilities_of(target: Path) -> Path:
    """Return the file of probabilities beside a label map's."""
    return target.parent / PROBABILITIES / target.name


def _write_volumes(path: Path, targets: Mapping[ScanFiles, Path], committee: Committee) -> None:
    """Write the table of all label maps of this part that exist, also of those that an earlier run wrote."""
    values = committee.first.label_values[1:].tolist()
    organs = dict(zip(values, committee.first.task.names, strict=True))
    rows = []
    for target in sorted(targets.values()):
        if target.exists():
            labels, affine = read_label(target)
            rows += volume_rows(target.name, labels, affine, organs)
    write_csv(path, rows, COLUMNS)


def _check_names(model: Model, scans: Sequence[Path | str], any_intensities: bool) -> None:
    """Raise DataError if the dataset.json of a folder names its channels in another order than the model's."""
    if model.intensities:
        renamed = {str(entry): problem for entry in scans if (problem := model.intensities.other_names(names_in(entry)))}
        report_misfits("dataset.json", renamed, any_intensities)


def _check_targets(targets: Mapping[ScanFiles, Path], out: Path, options: PredictOptions) -> None:
    """Raise DataError if a file would replace the scan, or another file unless the options allow that."""
    may_exist = options.overwrite or options.skip_existing
    for scan, target in targets.items():
        places = {place.resolve() for place in ((target,) if target == out else (target, out / scan.path.name))}
        if any(file.resolve() in places for file in scan.files):
            raise DataError(f"{scan.path}: the label map would overwrite the scan. Choose another --out.")
        for file in _files(target, options):
            if file.exists() and not may_exist:
                raise DataError(
                    f"{file} already exists and may be a manual label. "
                    "Choose another --out, or give --skip-existing or --overwrite."
                )


def _files(target: Path, options: PredictOptions) -> list[Path]:
    more = [probabilities_of(target)] if options.probabilities else []
    return [target, *more, *([options.also.file(target)] if options.also else [])]


def _left(targets: Mapping[ScanFiles, Path], out: Path, options: PredictOptions) -> list[ScanFiles]:
    """Return the scans that lack a file, and log how many have all."""
    left = [scan for scan, target in targets.items() if not all(file.exists() for file in _files(target, options))]
    if len(left) < len(targets):
        log.warning("skipped %d of %d scan(s), whose label maps exist in %s", len(targets) - len(left), len(targets), out)
    return left


def _is_taken(target: Path, options: PredictOptions) -> bool:
    """Return whether another job has written ``target`` in the meantime, so that its scan is left out; else DataError."""
    if options.overwrite or all(not file.exists() for file in _files(target, options)):
        return False
    if not options.skip_existing:
        raise DataError(f"{target} was written by another job in the meantime. Choose another --out, or give --skip-existing.")
    if not all(file.exists() for file in _files(target, options)):
        return False  # the label map is there, probabilities are asked for now
    log.warning("%s was written by another job in the meantime; it is kept", target)
    return True


def _problem(scan: ScanFiles, committee: Committee, options: PredictOptions) -> str:
    """Return why a scan cannot be segmented, or "". Reads it in full, so that damage is found before any scan is segmented."""
    path = scan.path
    if not path.name.endswith(SUFFIXES) and not path.is_dir():
        return f"{path}: expected a scan whose name ends with .nii, .nii.gz, .nrrd or .mha, or a folder of DICOM"
    try:
        array, affine = read_image(scan.files)
    except DataError as error:
        return str(error)
    if len(array) != committee.num_channels:
        return f"{path}: found {len(array)} channel(s), the model was adapted to {committee.num_channels}"
    image, canonical, _ = to_canonical(array, affine)
    told = committee.unfit(image.shape[1:], spacing_of(canonical), options.tta)
    if told:
        return f"{path}: {told}"
    for text, refusal in committee.misfits(profile_of(image)):
        if refusal and not options.any_intensities:
            return f"{path}: {refusal}"
        log.warning("%s: %s", path, text)
    return ""
