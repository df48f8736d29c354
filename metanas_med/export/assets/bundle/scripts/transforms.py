"""Before the network: axes, normalisation, grid and coordinates of the plan. After it: the label map on the scan's own grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from .plan import labels_of, prepare, to_canonical, undo


class PlanImaged(MapTransform):
    """Replaces an image (C, X, Y, Z) by the network's input (C + 3, X, Y, Z), and notes what LabelMapd needs to go back."""

    def __init__(self, keys: KeysCollection, note: dict, allow_missing_keys: bool = False):
        super().__init__(keys, allow_missing_keys)
        self.note = note

    def __call__(self, data):
        found = dict(data)
        for key in self.key_iterator(found):
            image = found[key]
            if len(image) != self.note["channels"]:
                raise ValueError(f"found {len(image)} channel(s), the model takes {self.note['channels']}")
            affine = np.asarray(image.affine, dtype=float)
            turned, spacing, (axes, flips) = to_canonical(np.asarray(image), affine)
            found[f"{key}_turn"] = torch.tensor([*axes, *map(int, flips), *turned.shape[1:]])
            found[f"{key}_affine"] = torch.from_numpy(affine)
            planned = torch.from_numpy(prepare(turned, spacing, self.note["plan"]))
            found[key] = MetaTensor(planned, meta={"filename_or_obj": image.meta["filename_or_obj"]})
        return found


class LabelMapd(MapTransform):
    """Replaces probabilities (K + 1, X, Y, Z) on the plan's grid by a label map (1, X, Y, Z) uint8 on the scan's own grid."""

    def __init__(self, keys: KeysCollection, image_key: str, note: dict, allow_missing_keys: bool = False):
        super().__init__(keys, allow_missing_keys)
        self.image_key, self.note = image_key, note

    def __call__(self, data):
        found = dict(data)
        turn = [int(value) for value in found[f"{self.image_key}_turn"]]
        values = np.array([0, *self.note["label_values"]], np.uint8)
        for key in self.key_iterator(found):
            organs = labels_of(np.asarray(found[key].detach().cpu()), turn[6:], self.note["plan"])
            labels = np.ascontiguousarray(undo(values[organs], (turn[:3], [bool(flip) for flip in turn[3:6]])))
            meta = {"filename_or_obj": found[self.image_key].meta["filename_or_obj"]}
            affine = torch.as_tensor(found[f"{self.image_key}_affine"], dtype=torch.float64)
            found[key] = MetaTensor(torch.from_numpy(labels)[None], affine=affine, meta=meta)
        return found


class SaveLabelMapd(MapTransform):
    """Writes label maps (1, X, Y, Z) as NAME_seg.nii.gz with the affine of their scan; MONAI's writer resamples oblique ones."""

    def __init__(self, keys: KeysCollection, output_dir: str, allow_missing_keys: bool = False):
        super().__init__(keys, allow_missing_keys)
        self.folder = Path(output_dir)

    def __call__(self, data):
        for key in self.key_iterator(data):
            labels = data[key]
            name = Path(labels.meta["filename_or_obj"]).name.removesuffix(".gz").removesuffix(".nii")
            self.folder.mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(np.asarray(labels)[0], np.asarray(labels.affine, dtype=float))
            nib.save(image, self.folder / f"{name}_seg.nii.gz")
        return data
