"""Several models of one organ as one: the mean of their class probabilities, each model with its own plan and network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.intensities import ScanProfile
from ..data.pieces import drop_small
from ..errors import ConfigError
from .model import Model
from .predict import check_finite


class Committee:
    """Models that segment the same organs in scans with the same channels; a single model predicts as it does alone.

    Cost: that of all models, one after another. Memory: 8 (K + 1) bytes a voxel of the scan for several models.
    """

    def __init__(self, models: Sequence[Model], names: Sequence[str] = ()) -> None:
        """Raise ConfigError if a model has other organs, label values or channels than the first; ``names`` are for messages."""
        if not models:
            raise ConfigError("expected at least one model")
        self.models = tuple(models)
        names = names or [f"model {number}" for number in range(1, len(models) + 1)]
        for model, name in zip(models, names, strict=True):
            for what, own, first in zip(("organs", "label values", "channels"), _kind(model), _kind(models[0]), strict=True):
                if own != first:
                    raise ConfigError(
                        f"{name} has {what} {own}, {names[0]} has {first}; models can be averaged only if they agree. "
                        "Predict with each into a folder of its own"
                    )

    @staticmethod
    def load(folders: Sequence[Path | str], device: str = "auto") -> Committee:
        """Return the models of ``folders``; CheckpointError as ``Model.load``."""
        return Committee([Model.load(folder, device) for folder in folders], [str(folder) for folder in folders])

    @property
    def first(self) -> Model:
        """The first model, which names organs and label values."""
        return self.models[0]

    @property
    def num_channels(self) -> int:
        return len(self.first.plan.intensities)

    def segment(
        self, image: np.ndarray, spacing: Sequence[float], tta: bool | None = None, probabilities: bool = False
    ) -> tuple[np.ndarray, Tensor | None]:
        """Return the label map (X, Y, Z) uint8 of a canonical image, and on demand its probabilities (K + 1, X, Y, Z) float32.

        Arguments and errors: as for ``Model.segment``. Small pieces are dropped for organs that every model marks as one piece.
        """
        if len(self.models) == 1 and not probabilities:
            return self.first.segment(image, spacing, tta), None
        total: Tensor | None = None
        for model in self.models:
            found = model.probabilities(image, spacing, tta)
            total = found if total is None else total + found  # not in place: found may be an inference tensor
        assert total is not None
        total = total / len(self.models)
        check_finite(total)
        best, organs = total[0].clone(), np.zeros(total.shape[1:], dtype=np.uint8)
        for k in range(1, len(total)):  # as Plan.invert_labels: the first of equal scores wins
            organs[(total[k] > best).numpy()] = k
            torch.maximum(best, total[k], out=best)
        pieces = [model.plan.in_one_piece or (False,) * model.task.num_organs for model in self.models]
        organs = drop_small(organs, [all(own) for own in zip(*pieces, strict=True)])
        return self.first.label_values[organs], total if probabilities else None

    def unfit(self, shape: Sequence[int], spacing: Sequence[float], tta: bool | None = None) -> str:
        """Return why a scan of canonical ``shape`` and ``spacing`` (mm) cannot be segmented; empty if it can."""
        return next((told for model in self.models if (told := model.unfit(shape, spacing, tta))), "")

    def misfits(self, profile: ScanProfile) -> list[tuple[str, str]]:
        """Return, for each model whose support has other intensities than a scan, what to say and the refusal (empty: none)."""
        found = [model.intensities.misfit(profile, model.plan) for model in self.models if model.intensities]
        return [(misfit.text, misfit.refusal if misfit.refused else "") for misfit in found if misfit]


def _kind(model: Model) -> tuple[object, ...]:
    return model.task.names, tuple(model.label_values[1:].tolist()), len(model.plan.intensities)
