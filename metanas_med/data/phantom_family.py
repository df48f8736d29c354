"""A family of related phantom organs: data sets in MSD layout that share what a meta-learned start can know.

Every scan shows a body with one or two target objects among look-alikes. Look-alikes have the target's shape family, size and mean
intensity; only the grain of the tissue differs (stripes along an axis, speckle, blobs, a shell, none). Objects lie anywhere, so neither
place nor brightness finds the organ: a network needs detectors of grains, and these serve every organ of the family.

An organ is a combination of grain, contrast and shape. A held-out organ has a combination of grain and contrast that no training organ
has; each by itself occurs in training. Cost: about 10 ms a scan of 24 x 24 x 20 voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..errors import DataError
from ..files import write_json
from . import phantom_shapes as shapes
from .phantom import dataset_json, write_nifti
from .phantom_shapes import Field, Triple

#: voxels of every scan; 1 mm each
SHAPE = (24, 24, 20)
#: voxels of one body unit
_UNIT = 12.0
#: mean of an object minus that of the body, in units of the body's signal
CONTRASTS = {"bright": 0.6, "dark": -0.45, "faint": 0.25}
SHAPES = ("ball", "lobes", "rod", "disc")
GRAINS = ("stripes_x", "stripes_y", "stripes_z", "speckle", "blobs", "shell", "plain")
#: amplitude of a grain, standard deviation of noise and of the body's own texture, in units of the body's signal
_GRAIN, _NOISE, _TEXTURE = 0.35, 0.08, 0.05
_NUM_OBJECTS = 4


@dataclass(frozen=True)
class FamilyOrgan:
    """One organ of the family: the grain of its tissue, its contrast to the body, and its shape."""

    name: str
    grain: str
    contrast: str
    shape: str

    @property
    def description(self) -> str:
        """A sentence for ``dataset.json``."""
        return f"objects of grain {self.grain} ({self.contrast}, {self.shape}) among objects of other grains"


#: grain, contrast and shape of the organs that never train
_HELD_OUT = (("stripes_x", "bright", "lobes"), ("shell", "dark", "ball"))
#: not an organ: little tells it from the body
_LEFT_OUT = ("plain", "faint")


def _training() -> list[tuple[str, str, str]]:
    """Return grain, contrast and shape of each training organ: the pairs of grain and contrast that are left, shapes in turn."""
    taken = {_LEFT_OUT, *(organ[:2] for organ in _HELD_OUT)}
    return [
        (grain, contrast, SHAPES[(g + 2 * c + g // 4) % len(SHAPES)])
        for g, grain in enumerate(GRAINS)
        for c, contrast in enumerate(CONTRASTS)
        if (grain, contrast) not in taken
    ]


def _named(rows: Sequence[tuple[str, str, str]], first: int) -> tuple[FamilyOrgan, ...]:
    return tuple(
        FamilyOrgan(f"Family{number:02d}_{grain.title().replace('_', '')}{contrast.title()}", grain, contrast, shape)
        for number, (grain, contrast, shape) in enumerate(rows, start=first)
    )


TRAINING = _named(_training(), 1)
HELD_OUT = _named(_HELD_OUT, len(TRAINING) + 1)


def make_family(
    root: Path, organs: Sequence[FamilyOrgan] = TRAINING, num_cases: int = 8, seed: int = 0, overwrite: bool = False
) -> list[Path]:
    """Return the data set folders of ``organs`` that are written under ``root``; a scan depends on ``seed``, organ and number alone.

    Raises DataError where one of the folders holds a data set, unless ``overwrite`` is set.
    """
    there = [folder for organ in organs if ((folder := Path(root) / organ.name) / "dataset.json").exists()]
    if there and not overwrite:
        raise DataError(f"{there[0]} already holds a data set. Choose another folder, or remove it.")
    return [_make_dataset(Path(root) / organ.name, organ, num_cases, seed) for organ in organs]


def _make_dataset(folder: Path, organ: FamilyOrgan, num_cases: int, seed: int) -> Path:
    names = []
    for case in range(num_cases):
        image, label = make_family_case(organ, np.random.default_rng([seed, *organ.name.encode(), case]))
        name = f"{organ.name.partition('_')[2].lower()}_{case + 1:03d}"
        names.append(name)
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            write_nifti(folder / part / f"{name}.nii.gz", array.shape, array.dtype, np.eye(4), [array])
    write_json(folder / "dataset.json", dataset_json(organ.name, f"Synthetic: {organ.description}", ("MRI",), ("organ",), names))
    return folder


def make_family_case(organ: FamilyOrgan, rng: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Return one person's image (X, Y, Z) and label map (X, Y, Z) of ``SHAPE``, 1 mm a voxel; label 1 is the organ."""
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in SHAPE), indexing="ij"))
    points = (grid - (np.array(SHAPE, np.float32).reshape(3, 1, 1, 1) - 1) / 2) / np.float32(_UNIT)
    body = shapes.ellipsoid(points, (0.0, 0.0, 0.0), (1.02, 0.97, 1.15))
    image = np.where(body < 0, 1 + _TEXTURE * _smooth(rng, 1.5), 0.1).astype(np.float32)
    label = np.zeros(SHAPE, np.uint8)
    warped = shapes.warp(points, rng, amount=0.08)
    num_targets = 1 + int(rng.random() < 0.4)
    others = [grain for grain in GRAINS if grain != organ.grain]
    decoys = [others[int(i)] for i in rng.permutation(len(others))[: _NUM_OBJECTS - num_targets]]
    level = 1 + CONTRASTS[organ.contrast] * float(np.exp(rng.normal(0, 0.15)))
    for centre, grain in zip(_places(rng), [organ.grain] * num_targets + decoys, strict=False):
        field = _shape(organ.shape, warped, centre, rng)
        share = 1 / (1 + np.exp(np.clip(field * np.float32(_UNIT / 0.3), -30, 30)))
        image += share * (np.float32(level) + np.float32(_GRAIN) * _grain(grain, grid, field, rng) - image)
        label[field <= 0] = 1 if grain == organ.grain else 0
    return _scan(image, rng), label


def _places(rng: np.random.Generator) -> list[Triple]:
    """Return up to ``_NUM_OBJECTS`` centres in body units, no two close to each other."""
    found: list[NDArray] = []
    for _ in range(400):
        place = rng.uniform((-0.64, -0.6, -0.5), (0.64, 0.6, 0.5))
        if all(np.linalg.norm(place - other) > 0.72 for other in found):
            found.append(place)
        if len(found) == _NUM_OBJECTS:
            break
    return [(float(x), float(y), float(z)) for x, y, z in found]


def _shape(kind: str, points: Field, centre: Triple, rng: np.random.Generator) -> Field:
    """Return the field of one object of a shape family, about 8 voxels across."""
    size = 0.34 * float(np.exp(rng.normal(0, 0.08)))
    if kind == "ball":
        return shapes.ellipsoid(points, centre, (size, size * float(rng.uniform(0.85, 1.15)), size))
    if kind == "lobes":
        return shapes.lobed(points, centre, size, list(rng.normal(0, 0.1, 7)))
    if kind == "rod":
        along = rng.normal(size=3)
        along *= 0.6 * size / np.linalg.norm(along)
        return shapes.tube(points, [tuple(np.subtract(centre, along)), tuple(np.add(centre, along))], 0.8 * size)
    return shapes.disc(points, centre, (1.1 * size, 1.1 * size), 0.75 * size)


def _grain(kind: str, grid: Field, field: Field, rng: np.random.Generator) -> Field:
    """Return a grain (X, Y, Z) of about zero mean and unit amplitude."""
    if kind == "plain":
        return np.zeros_like(field)
    if kind == "shell":
        inside = field * np.float32(_UNIT)
        return np.where(inside > -1.6, 1.2, -0.9).astype(np.float32)
    if kind in ("speckle", "blobs"):
        return _smooth(rng, 0.4 if kind == "speckle" else 1.3)
    axis = "xyz".index(kind[-1])
    wave = 2 * np.pi / rng.uniform(3.6, 4.4)
    phase = rng.uniform(0, 2 * np.pi) + 0.5 * _smooth(rng, 2.5)
    return (1.3 * np.sin(wave * grid[axis] + phase)).astype(np.float32)


def _smooth(rng: np.random.Generator, sigma: float) -> Field:
    """Return a smooth random field (X, Y, Z) of unit standard deviation."""
    field = gaussian_filter(rng.standard_normal(SHAPE, dtype=np.float32), sigma)
    return field / field.std()


def _scan(image: Field, rng: np.random.Generator) -> NDArray[np.int16]:
    """Return ``image`` as the family's scanner shows it: bias field, Rician noise, a scale of its own."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape), indexing="ij")
    terms = np.stack([*axes, axes[0] * axes[1], axes[1] * axes[2], *(a * a for a in axes)])
    bias = np.exp(np.tensordot(rng.normal(0, 0.12, len(terms)).astype(np.float32), terms, 1))
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(_NOISE)
    magnitude = np.sqrt((image * bias + real) ** 2 + imaginary**2)
    return np.clip(np.rint(magnitude * rng.uniform(280, 520)), 0, 32767).astype(np.int16)
