"""An adapted model: network, plan and organs, saved as a folder and applied to scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..data.orientation import to_canonical
from ..data.plan import Plan
from ..data.units import in_other_units
from ..errors import CheckpointError, ConfigError, DataError
from ..files import write_json
from ..learner import Runtime, choose_runtime
from ..learner.relaxations import read_relaxed, relaxed_note
from ..privacy import public_name
from ..space import SpaceSettings, build_derived, get_space, outline, read_space_settings
from ..space.ensemble import Ensemble
from ..space.network import SegmentationNet
from ..tasks.organ import OrganTask
from .checkpoint import load_state, save_state
from .intensities import SupportIntensities
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
from .predict import bytes_a_voxel, labels_of, predict_scores
from .starts import refuse_start


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
    snomed: Mapping[str, str] = field(
        default_factory=dict
    )  #: SNOMED CT codes or keywords by organ name, from the data set's card
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
            **({"snomed": dict(self.snomed)} if self.snomed else {}),
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
        model = Model(net.to(runtime.device).eval(), plan, task, space, genotype, runtime, support, spacing, intensities)
        model.tta, model.snomed = tta, dict(note.get("snomed", {}))
        return model

    def segment(self, image: np.ndarray, spacing: Sequence[float], tta: bool | None = None) -> np.ndarray:
        """Return the label map (X, Y, Z) uint8 of a canonical image (C, X, Y, Z) with ``spacing`` in mm.

        ``tta`` averages over the image and four transformed copies, at five times the cost (``predict_scores``). None: as the
        model says. Raises DataError if the number of channels differs from that of the support scans.
        """
        scores = self._scores(image, spacing, tta)
        return self.label_values[labels_of(scores, self.plan, image.shape[1:])]

    def segment_array(self, image: np.ndarray, affine: np.ndarray, tta: bool | None = None) -> np.ndarray:
        """Return the label map (X, Y, Z) uint8 of an image (X, Y, Z) or (C, X, Y, Z) in any order of its axes, on the same grid.

        ``affine`` (4, 4) maps voxel indices to mm, RAS+, as nibabel's does. The values of the map are those of the data set that
        the model was adapted to. ``tta`` and errors: as for ``segment``; DataError also for another number of axes, an affine
        that is none, and values that are not finite.

        >>> labels = model.segment_array(scan.get_fdata(), scan.affine)   # doctest: +SKIP
        """
        image, affine = np.asarray(image), np.asarray(affine, dtype=np.float64)
        image = image[np.newaxis] if image.ndim == 3 else image
        if image.ndim != 4 or affine.shape != (4, 4):
            raise DataError(
                f"found an image of shape {image.shape} and an affine of shape {affine.shape}, "
                "expected (X, Y, Z) or (C, X, Y, Z), and (4, 4)"
            )
        if not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 0):
            raise DataError("the affine has values that are not finite, or no volume; expected the one of the scan's header")
        if not np.isfinite(image).all():
            raise DataError("the image has values that are not finite; replace them")
        turned, canonical, orientation = to_canonical(image, affine)
        labels = self.segment(np.ascontiguousarray(turned, dtype=np.float32), spacing_of(canonical), tta)
        return np.ascontiguousarray(orientation.undo(labels))

    def probabilities(self, image: np.ndarray, spacing: Sequence[float], tta: bool | None = None) -> Tensor:
        """Return the probabilities (K + 1, X, Y, Z) float32 of background and organs of a canonical image; they sum to 1.

        Their argmax is the map of ``segment`` before small pieces are dropped. Arguments and errors: as for ``segment``. Memory:
        4 (K + 1) bytes a voxel of the scan.
        """
        return self.plan.invert_scores(self._scores(image, spacing, tta), image.shape[1:]).contiguous()

    def _scores(self, image: np.ndarray, spacing: Sequence[float], tta: bool | None) -> Tensor:
        """Return class probabilities (K + 1, X, Y, Z) in plan order."""
        expected = len(self.plan.intensities)
        if image.shape[0] != expected:
            raise DataError(
                f"found {image.shape[0]} channel(s), the model was adapted to {expected}. Give scans of the same kind."
            )
        planned = self.plan.apply_image(image, spacing)
        return predict_scores(self.net, planned, self.plan, self.runtime, tta=self.tta if tta is None else tta)

    def unfit(self, shape: Sequence[int], spacing: Sequence[float], tta: bool | None = None) -> str:
        """Return why a scan of canonical ``shape`` and ``spacing`` (mm) cannot be segmented; empty if it can.

        Reasons: its header is in other units than those of the support scans, or it does not fit into free memory.
        """
        if self.spacing and (told := in_other_units(spacing, self.spacing, "the scans that the model was adapted to")):
            return told
        tta = self.tta if tta is None else tta
        return self.plan.too_large(shape, spacing, bytes_a_voxel(len(self.plan.intensities), self.task.num_organs, tta))


def spacing_of(affine: np.ndarray) -> list[float]:
    """Return the voxel edges in mm of an affine (4, 4)."""
    return [float(edge) for edge in np.sqrt((affine[:3, :3] ** 2).sum(0))]


def _network(
    space: SpaceSettings, genotype: dict[str, Any] | None, num_channels: int, num_organs: int, members: int = 1
) -> SegmentationNet | Ensemble:
    def build() -> SegmentationNet:
        body = build_derived(genotype) if genotype else get_space(space).build(None)
        return SegmentationNet(body, num_channels, num_organs, space.widths)

    return build() if members == 1 else Ensemble([build() for _ in range(members)])


def write_architecture_drawing(folder: Path, genotype: dict[str, Any]) -> Path:
    """Return the path of the drawing of ``genotype`` in ``folder``."""
    from ..report.genotype import draw_architecture

    path = folder / "architecture.svg"
    draw_architecture(path, asdict(outline(genotype)))
    return path
