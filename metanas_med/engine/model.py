"""An adapted model: network, plan and organs, saved as a folder and applied to scans."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.case_names import SUFFIXES
from ..data.intensities import profile_of
from ..data.orientation import to_canonical
from ..data.plan import Plan
from ..data.units import in_other_units
from ..data.volumes import read_image, read_notes, write_label
from ..errors import CheckpointError, ConfigError, DataError
from ..files import check_folder, clear_leftovers, write_json
from ..learner import Runtime, choose_runtime
from ..learner.relaxations import read_relaxed, relaxed_note
from ..ownership import owned
from ..privacy import public_name
from ..space import SpaceSettings, build_derived, get_space, outline, read_space_settings
from ..space.ensemble import Ensemble
from ..space.network import SegmentationNet
from ..tasks.organ import OrganTask
from .checkpoint import load_state, save_state
from .intensities import SupportIntensities, report_misfits
from .model_check import (
    WRONG_VALUES,
    check_members,
    check_note,
    check_organs,
    check_plan,
    check_relaxed,
    check_shapes,
    check_spacing,
)
from .predict import bytes_a_voxel, predict_labels
from .scan_files import ScanFiles, label_maps, names_in, scans_in
from .scan_files import find_scans as find_scans
from .starts import refuse_start

log = logging.getLogger(__name__)


@dataclass
class Model:
    """An adapted network with everything that prediction needs."""

    net: SegmentationNet | Ensemble
    plan: Plan
    task: OrganTask
    space: SpaceSettings
    genotype: dict[str, Any] | None  #: None for a fixed network
    runtime: Runtime
    support: tuple[str, ...] = ()  #: SHA-256 of the support scans' voxels (``CachedCase.content_hash``); empty: unknown
    spacing: tuple[float, ...] = ()  #: mm, canonical axes: of the support scan with the median voxel size; empty: unknown
    intensities: SupportIntensities | None = None  #: None: unknown, then scans are not compared with them
    tta: bool = False  #: whether predictions use test-time augmentation unless the caller says otherwise

    @property
    def label_values(self) -> np.ndarray:
        """Return the label values written for classes 0..K: the first value of each organ in the data set."""
        return np.array([0, *(values[0] for values in self.task.organs)], dtype=np.uint8)

    def save(self, folder: Path | str) -> str:
        """Write ``model.safetensors``, ``model.json`` and ``architecture.json``; return the SHA-256 of the tensors' file."""
        folder = Path(folder)
        architecture = self.genotype or {"space": self.space.name, "settings": self.space.model_dump(mode="json")}
        note = {
            "plan": self.plan.to_json(),
            "dataset": public_name(self.task.dataset, self.support) if self.support else self.task.dataset,
            "organs": [
                {"name": n, "labels": list(v), "parts": list(p)}
                for n, v, p in zip(self.task.names, self.task.organs, self.task.part_names, strict=True)
            ],
            "space": self.space.model_dump(mode="json"),
            "genotype": self.genotype,
            "relaxed": relaxed_note(self.net.body.relaxed),  # the output of a soft network depends on its temperature
            "support_content": list(self.support),
            "support_spacing": list(self.spacing),
            "support_intensities": self.intensities.to_json() if self.intensities else None,
            # of models that have them: others keep the bytes that they always had
            **({"members": len(self.net.members)} if isinstance(self.net, Ensemble) else {}),
            **({"tta": True} if self.tta else {}),
        }
        write_json(folder / "architecture.json", architecture)
        return save_state(folder, "model", "model", self.net.state_dict(), note)

    @staticmethod
    def load(folder: Path | str, device: str = "auto", precision: str = "auto") -> Model:
        """Return the model of ``folder``; CheckpointError if it is missing, damaged or of another version."""
        refuse_start(folder)
        tensors, note = load_state(Path(folder), "model", "model")
        runtime = choose_runtime(device, precision)
        try:
            check_note(note)
            plan = Plan.from_json(note["plan"])
            organs, genotype = note["organs"], note["genotype"]
            parts = tuple(tuple(o.get("parts") or (o["name"],)) for o in organs)
            names, values = tuple(o["name"] for o in organs), tuple(tuple(o["labels"]) for o in organs)
            task = OrganTask(note["dataset"], names, values, parts if any(len(p) > 1 for p in parts) else ())
            space = read_space_settings(note["space"])
            relaxed = read_relaxed(note)
            # older models lack these fields
            support = tuple(str(digest) for digest in note.get("support_content", ()))
            spacing = tuple(float(size) for size in note.get("support_spacing", ()))
            intensities = SupportIntensities.from_json(kept) if (kept := note.get("support_intensities")) else None
            check_plan(plan, space.levels)
            check_relaxed(relaxed.progress, relaxed.prune)
            check_organs(names, values, parts)
            check_spacing(spacing)
            members, tta = note.get("members", 1), bool(note.get("tta", False))
            check_members(members)
            check_shapes(lambda: _network(space, genotype, len(plan.intensities), task.num_organs, members), tensors)
            net = _network(space, genotype, len(plan.intensities), task.num_organs, members)
            for part in net.nets if isinstance(net, Ensemble) else (net,):
                part.body.relax(relaxed)
        except (*WRONG_VALUES, ConfigError, CheckpointError) as error:
            raise CheckpointError(f"{folder}/model.json cannot be used ({' '.join(str(error).split())[:200]})") from error
        try:
            net.load_state_dict(tensors)
        except RuntimeError as error:
            raise CheckpointError(
                f"{folder}: the tensors do not fit architecture.json ({str(error).splitlines()[-1].strip()})"
            ) from error
        return Model(net.to(runtime.device).eval(), plan, task, space, genotype, runtime, support, spacing, intensities, tta)

    def segment(self, image: np.ndarray, spacing: Sequence[float], tta: bool | None = None) -> np.ndarray:
        """Return the label map (X, Y, Z) uint8 of a canonical image (C, X, Y, Z) with ``spacing`` in mm.

        ``tta`` averages over the image and four transformed copies, at five times the cost (``predict_scores``). None: as the
        model says. Raises DataError if the number of channels differs from that of the support scans.
        """
        tta = self.tta if tta is None else tta
        expected = len(self.plan.intensities)
        if image.shape[0] != expected:
            raise DataError(
                f"found {image.shape[0]} channel(s), the model was adapted to {expected}. Give scans of the same kind."
            )
        planned = self.plan.apply_image(image, spacing)
        return self.label_values[predict_labels(self.net, planned, self.plan, image.shape[1:], self.runtime, tta)]

    def unfit(self, shape: Sequence[int], spacing: Sequence[float], tta: bool | None = None) -> str:
        """Return why a scan of canonical ``shape`` and ``spacing`` (mm) cannot be segmented; empty if it can.

        Reasons: its header is in other units than those of the support scans, or it does not fit into free memory.
        """
        if self.spacing and (told := in_other_units(spacing, self.spacing, "the scans that the model was adapted to")):
            return told
        tta = self.tta if tta is None else tta
        return self.plan.too_large(shape, spacing, bytes_a_voxel(len(self.plan.intensities), self.task.num_organs, tta))


def _network(
    space: SpaceSettings, genotype: dict[str, Any] | None, num_channels: int, num_organs: int, members: int = 1
) -> SegmentationNet | Ensemble:
    def build() -> SegmentationNet:
        body = build_derived(genotype) if genotype else get_space(space).build(None)
        return SegmentationNet(body, num_channels, num_organs, space.widths)

    return build() if members == 1 else Ensemble([build() for _ in range(members)])


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


def predict(
    model: Model | Path | str,
    scans: Sequence[Path | str],
    out: Path | str,
    *,
    overwrite: bool = False,
    skip_bad: bool = False,
    skip_existing: bool = False,
    tta: bool | None = None,
    any_intensities: bool = False,
    on_scan: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Return the paths of label maps written to ``out`` for NIfTI ``scans`` or folders of them, in each scan's own geometry.

    ``out`` is a folder, or for a single scan the name of a file (``.nii``, ``.nii.gz``). A label map has the name of its scan; if
    scans of several folders have the same file name, that of its folder. All scans are checked before the first is segmented:
    BadScans lists those that cannot be segmented, unless ``skip_bad`` leaves them out with a warning. Raises DataError if a label
    map would replace an existing file; ``overwrite`` allows it, except for the scans themselves, to one job at a time.
    ``skip_existing`` leaves out scans with an existing label map and logs their number, so that a stopped job can continue.
    ``tta``: as in ``Model.segment``. Scans whose intensities do not fit those of the support scans cannot be segmented, unless
    ``any_intensities`` is set. ``on_scan(done, total)`` is called after each scan.
    """
    if overwrite and skip_existing:
        raise ConfigError("--overwrite and --skip-existing exclude each other. Give one of the two.")
    model = model if isinstance(model, Model) else Model.load(model)
    out = Path(out)
    targets = label_maps(scans_in(scans), out)
    folder = next(iter(targets.values())).parent
    _check_names(model, scans, any_intensities)
    # another job stops before it replaces a label map; with --overwrite the maps of two models would be mixed
    with owned(folder, "predict") if overwrite else nullcontext():
        check_folder(folder)
        clear_leftovers(folder)  # of predictions that were killed
        _check_targets(targets, out, may_exist=overwrite or skip_existing)
        left = _left(targets, out) if skip_existing else list(targets)
        problems = {scan: problem for scan in left if (problem := _problem(scan, model, tta, any_intensities))}
        if problems and (not skip_bad or len(problems) == len(targets)):
            raise BadScans(tuple(problems.values()), len(targets))
        for problem in problems.values():
            log.warning("left out: %s", problem)
        left = [scan for scan in left if scan not in problems]
        for scan in left:
            for note in read_notes(scan.files):
                log.warning("%s: %s", scan.path, note)
        written: list[Path] = []
        for number, scan in enumerate(left, start=1):
            if not _is_taken(targets[scan], overwrite, skip_existing):
                labels = _label_map(scan, model, tta)
                if not _is_taken(targets[scan], overwrite, skip_existing):
                    write_label(targets[scan], labels, scan.path)
                    written.append(targets[scan])
                    log.info("%s", targets[scan])
            if on_scan:
                on_scan(number, len(left))
        return written


def _check_names(model: Model, scans: Sequence[Path | str], any_intensities: bool) -> None:
    """Raise DataError if the dataset.json of a folder names its channels in another order than the model's."""
    if model.intensities:
        renamed = {str(entry): problem for entry in scans if (problem := model.intensities.other_names(names_in(entry)))}
        report_misfits("dataset.json", renamed, any_intensities)


def _check_targets(targets: Mapping[ScanFiles, Path], out: Path, may_exist: bool) -> None:
    """Raise DataError if a label map (by scan) would replace its scan, or another file unless they ``may_exist``."""
    for scan, target in targets.items():
        places = {place.resolve() for place in ((target,) if target == out else (target, out / scan.path.name))}
        if any(file.resolve() in places for file in scan.files):
            raise DataError(f"{scan.path}: the label map would overwrite the scan. Choose another --out.")
        if target.exists() and not may_exist:
            raise DataError(
                f"{target} already exists and may be a manual label. "
                "Choose another --out, or give --skip-existing or --overwrite."
            )


def _left(targets: Mapping[ScanFiles, Path], out: Path) -> list[ScanFiles]:
    """Return the scans without a label map, and log how many have one."""
    left = [scan for scan, target in targets.items() if not target.exists()]
    if len(left) < len(targets):
        log.warning("skipped %d of %d scan(s), whose label maps exist in %s", len(targets) - len(left), len(targets), out)
    return left


def _label_map(scan: ScanFiles, model: Model, tta: bool | None) -> np.ndarray:
    """Return the label map (X, Y, Z) uint8 of a scan, in the scan's own axes."""
    array, affine = read_image(scan.files)
    image, canonical_affine, orientation = to_canonical(array, affine)
    if any(channel.min() == channel.max() for channel in array):
        log.warning("%s: the image, or one of its channels, has the same value in all voxels; check it", scan.path)
    spacing = np.sqrt((canonical_affine[:3, :3] ** 2).sum(0))
    labels = model.segment(np.ascontiguousarray(image, dtype=np.float32), [float(s) for s in spacing], tta)
    return np.ascontiguousarray(orientation.undo(labels))


def _is_taken(target: Path, overwrite: bool, skip_existing: bool) -> bool:
    """Return whether another job has written ``target`` in the meantime, so that its scan is left out; else DataError."""
    if overwrite or not target.exists():
        return False
    if not skip_existing:
        raise DataError(f"{target} was written by another job in the meantime. Choose another --out, or give --skip-existing.")
    log.warning("%s was written by another job in the meantime; it is kept", target)
    return True


def _problem(scan: ScanFiles, model: Model, tta: bool | None, any_intensities: bool) -> str:
    """Return why a scan cannot be segmented, or "". Reads it in full, so that damage is found before any scan is segmented."""
    path = scan.path
    if not path.name.endswith(SUFFIXES) and not path.is_dir():
        return f"{path}: expected a scan whose name ends with .nii, .nii.gz, .nrrd or .mha, or a folder of DICOM"
    try:
        array, affine = read_image(scan.files)
    except DataError as error:
        return str(error)
    expected = len(model.plan.intensities)
    if len(array) != expected:
        return f"{path}: found {len(array)} channel(s), the model was adapted to {expected}"
    image, canonical_affine, _ = to_canonical(array, affine)
    told = model.unfit(image.shape[1:], np.linalg.norm(canonical_affine[:3, :3], axis=0).tolist(), tta)
    if told:
        return f"{path}: {told}"
    found = model.intensities.misfit(profile_of(image), model.plan) if model.intensities else None
    if found and found.refused and not any_intensities:
        return f"{path}: {found.refusal}"
    if found:
        log.warning("%s: %s", path, found.text)
    return ""


def write_architecture_drawing(folder: Path, genotype: dict[str, Any]) -> Path:
    """Return the path of the drawing of ``genotype`` in ``folder``."""
    from ..report.genotype import draw_architecture

    path = folder / "architecture.svg"
    draw_architecture(path, asdict(outline(genotype)))
    return path
