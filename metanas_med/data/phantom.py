"""The phantom decathlon: ten synthetic organ data sets in MSD layout; one seed gives the same bytes each time."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..errors import DataError, suggest
from ..files import atomic_path, write_json
from .phantom_organs import ORGANS, Organ
from .phantom_shapes import Field, ellipsoid, rotation, warp

_LICENCE = "CC0 1.0: made by metanas_med, no person was scanned"


def make_phantoms(root: Path, seed: int = 0, num_cases: int = 8, scale: float = 1.0, overwrite: bool = False) -> list[Path]:
    """Return the ten data set folders that are written under ``root``.

    ``scale`` multiplies the voxels along each axis; the field of view stays, so below 1 the voxels are larger. Raises DataError where one of
    the folders holds a data set, unless ``overwrite`` is set.
    """
    there = [folder for organ in ORGANS if ((folder := Path(root) / organ.name) / "dataset.json").exists()]
    if there and not overwrite:
        raise DataError(f"{there[0]} already holds a data set. Choose another folder, or remove it.")
    return [_make_dataset(Path(root), organ, index, seed, num_cases, scale) for index, organ in enumerate(ORGANS)]


def _make_dataset(root: Path, organ: Organ, index: int, seed: int, num_cases: int, scale: float) -> Path:
    folder = root / organ.name
    names = []
    for case in range(num_cases):
        rng = np.random.default_rng(np.random.SeedSequence([seed, index, case]))
        image, label, affine = make_case(organ, rng, scale)
        name = f"{organ.name.partition('_')[2].lower()}_{case + 1:03d}"
        names.append(name)
        _write(folder / "imagesTr" / f"{name}.nii.gz", image, affine)
        _write(folder / "labelsTr" / f"{name}.nii.gz", label, affine)
    description = f"Synthetic: {organ.description}"
    write_json(folder / "dataset.json", dataset_json(organ.name, description, organ.modality, organ.labels, names))
    return folder


def dataset_json(
    name: str, description: str, modality: Sequence[str], labels: Sequence[str], cases: Sequence[str]
) -> dict[str, Any]:
    """Return the content of an MSD ``dataset.json``; ``labels`` are those of 1, 2, ..."""
    return {
        "name": name,
        "description": description,
        "reference": "metanas_med phantom",
        "licence": _LICENCE,
        "release": "1.0",
        "tensorImageSize": "4D" if len(modality) > 1 else "3D",
        "modality": {str(channel): text for channel, text in enumerate(modality)},
        "labels": {"0": "background"} | {str(value): text for value, text in enumerate(labels, 1)},
        "numTraining": len(cases),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in cases],
        "test": [],
    }


def make_case(organ: Organ, rng: np.random.Generator, scale: float = 1.0) -> tuple[NDArray, NDArray[np.uint8], NDArray]:
    """Return one person's image (X, Y, Z) or (X, Y, Z, C), label map and affine (voxel to mm, RAS+)."""
    shape = tuple(max(6, round((n + int(rng.integers(-2, 3)) * (n > 16)) * scale)) for n in organ.shape)
    nominal = np.array(organ.spacing_mm) * np.array(organ.shape)
    spacing = nominal / (np.array(organ.shape) * scale) * np.exp(rng.normal(0, 0.03))
    turn = rotation(rng.uniform(-0.2, 0.2, 3)) if rng.random() < 0.5 else np.eye(3)  # every other scan is oblique
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)

    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))
    unit_mm = nominal.mean() / 2
    points = np.tensordot(affine[:3, :3], grid, 1) + affine[:3, 3].reshape(3, 1, 1, 1)
    person = warp((points / unit_mm).astype(np.float32), rng, amount=0.08)
    image, label = _paint(organ, person, rng, width=float(spacing.min() / unit_mm), spacing_mm=spacing)

    affine[:3, 3] += rng.uniform(-80, 80, 3)  # where the scanner's table stood
    image, label, affine = _reorient(image, label, affine, rng)
    return (image[..., 0] if image.shape[-1] == 1 else image), label, affine


def _paint(
    organ: Organ, person: Field, rng: np.random.Generator, width: float, spacing_mm: NDArray
) -> tuple[NDArray, NDArray[np.uint8]]:
    """Return the image (X, Y, Z, C) and the label map of one person on the grid of points."""
    body = ellipsoid(person, (0.0, 0.0, 0.0), organ.body)
    anatomy = organ.build(person, rng)
    layers: list[tuple[Field, str]] = [(body, "rim"), (body + np.float32(0.07), "body")]
    layers += [(np.maximum(shape, body + np.float32(0.07)), tissue) for shape, tissue in anatomy.others]
    layers += list(zip(anatomy.organs, organ.organ_tissues, strict=True))
    label = np.zeros(body.shape, np.uint8)
    for value, shape in enumerate(anatomy.organs, 1):
        label[shape <= 0] = value

    channels = []
    shares = {tissue: rng.normal(0, 0.04) for tissue in sorted({tissue for _, tissue in layers})}
    for channel in range(len(organ.modality)):
        image = np.full(body.shape, organ.values["air"][channel], np.float32)
        spread = abs(organ.values["organ"][channel] - organ.values["body"][channel])
        for shape, tissue in layers:
            # a voxel on a border holds some of both tissues
            share = 1 / (1 + np.exp(np.clip(shape / np.float32(0.3 * width), -30, 30)))
            value = organ.values[tissue][channel] + 3 * spread * shares[tissue]
            image = image + share * (np.float32(value) - image)
        channels.append(_SCANNERS[organ.style](image, body, organ, rng, spacing_mm))
    return np.stack(channels, -1), label


def _texture(body: Field, rng: np.random.Generator, sigma: float) -> Field:
    """Return a smooth random field of standard deviation 1 inside the body, 0 outside."""
    field = gaussian_filter(rng.standard_normal(body.shape, dtype=np.float32), sigma)
    return field / (field.std() + np.float32(1e-6)) * (body < 0)


def _ct(image: Field, body: Field, organ: Organ, rng: np.random.Generator, spacing_mm: NDArray) -> NDArray:
    image = image + 8 * _texture(body, rng, 1.5)
    image += _texture(np.full_like(body, -1), rng, 0.5) * organ.noise  # a reconstruction's noise is correlated
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)


def _mr(image: Field, body: Field, organ: Organ, rng: np.random.Generator, spacing_mm: NDArray) -> NDArray:
    image = image + organ.texture * 500 * _texture(body, rng, 1.2)
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape), indexing="ij")
    terms = [*axes, axes[0] * axes[1], axes[1] * axes[2], axes[0] * axes[2], *(a * a for a in axes)]
    slope = rng.normal(0, 0.12, len(terms))
    bias = np.exp(np.tensordot(slope.astype(np.float32), np.stack(terms), 1))
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * organ.noise
    magnitude = np.sqrt((image * bias + real) ** 2 + imaginary**2)  # Rician noise
    return np.clip(np.rint(magnitude * rng.uniform(0.7, 1.5)), 0, 32767).astype(np.int16)


def _pet(image: Field, body: Field, organ: Organ, rng: np.random.Generator, spacing_mm: NDArray) -> NDArray:
    resolution_mm = 4.0 / 2.355  # full width at half maximum to standard deviation
    blurred = gaussian_filter(image + 0.1 * np.abs(_texture(body, rng, 1.5)), resolution_mm / spacing_mm)
    counts = 1 / organ.noise**2  # a voxel of uptake 1 has this many
    noisy = rng.poisson(np.clip(blurred, 0, None) * counts) / counts
    return gaussian_filter(noisy, 0.5 * resolution_mm / spacing_mm).astype(np.float32)


_SCANNERS = {"CT": _ct, "MR": _mr, "PET": _pet}


def _reorient(image: NDArray, label: NDArray, affine: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
    """Return the same scan stored with its axes permuted and flipped at random; the anatomy stays where it is in mm."""
    order = rng.permutation(3) if rng.random() < 0.4 else np.arange(3)
    flips = rng.random(3) < 0.4
    image, label = image.transpose(*order, 3), label.transpose(*order)
    affine = affine[:, [*order, 3]].copy()
    for axis in np.flatnonzero(flips).tolist():
        affine[:3, 3] += affine[:3, axis] * (label.shape[axis] - 1)
        affine[:3, axis] *= -1
        image, label = np.flip(image, axis), np.flip(label, axis)
    return image, label, affine


def _write(path: Path, array: NDArray, affine: NDArray) -> None:
    write_nifti(path, array.shape, array.dtype, affine, [array])


def write_nifti(
    path: Path, shape: Sequence[int], dtype: Any, affine: NDArray, blocks: Iterable[NDArray] | Iterator[NDArray], level: int = 6
) -> None:
    """Write a .nii.gz whose bytes depend on the content alone; ``blocks`` follow each other along the slowest axes."""
    header = Nifti1Header()
    header.set_data_shape(tuple(shape))
    header.set_data_dtype(np.dtype(dtype))
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_zooms((*voxel_sizes(affine), *([1.0] * (len(shape) - 3))))
    header.set_xyzt_units("mm")
    header.set_data_offset(352)
    with atomic_path(path) as temporary, open(temporary, "wb") as raw:
        # no name and no time in the gzip header: the same content gives the same bytes
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=level, mtime=0) as packed:
            packed.write(header.binaryblock + b"\0" * 4)
            for block in blocks:
                packed.write(block.astype(dtype, copy=False).tobytes(order="F"))


#: MSD's true shapes: folder, case name, shape, spacing in mm, modality, labels.
_MSD = {
    "Task01": ("Task01_BrainTumour", "BRATS_{:03d}", (240, 240, 155), (1.0, 1.0, 1.0), ("FLAIR", "T1w", "t1gd", "T2w"),
               ("edema", "non-enhancing tumor", "enhancing tumour")),
    "Task03": ("Task03_Liver", "liver_{:d}", (512, 512, 450), (0.77, 0.77, 1.0), ("CT",), ("liver", "cancer")),
    "Task08": ("Task08_HepaticVessel", "hepaticvessel_{:03d}", (512, 512, 75), (0.8, 0.8, 5.0), ("CT",), ("Vessel", "Tumour")),
}  # fmt: skip


def make_msd_shapes(root: Path, tasks: Sequence[str] = tuple(_MSD), num_cases: int = 2, seed: int = 0) -> list[Path]:
    """Return the folders of phantoms with MSD's true shapes, channels and labels, for dry runs of memory and time.

    Volumes are made and packed slice by slice, so memory stays far below a volume's size. Nested balls are the organs.
    """
    folders = []
    for task in tasks:
        if task not in _MSD:
            raise DataError(f"no true-shape phantom of {task!r}; {suggest(task, _MSD)}")
        folder_name, pattern, shape, spacing, modality, labels = _MSD[task]
        folder = Path(root) / folder_name
        names = []
        for case in range(num_cases):
            rng = np.random.default_rng(np.random.SeedSequence([seed, int(task[4:]), case]))
            names.append(pattern.format(case + 1))
            affine = np.diag([*spacing, 1.0])
            depth = shape[2] + int(rng.integers(-10, 11)) * (task != "Task01")
            full = (shape[0], shape[1], depth)
            state = int(rng.integers(2**32))
            balls = _Balls(full, np.array(spacing), len(labels), rng)
            whole = full if len(modality) == 1 else (*full, len(modality))
            images = (block for channel in range(len(modality)) for block in balls.images(channel, state))
            write_nifti(folder / "imagesTr" / f"{names[-1]}.nii.gz", whole, np.int16, affine, images, level=1)
            write_nifti(folder / "labelsTr" / f"{names[-1]}.nii.gz", full, np.uint8, affine, balls.labels(), level=1)
        content = dataset_json(folder_name, "Synthetic phantom of this task's true shape", modality, labels, names)
        write_json(folder / "dataset.json", content)
        folders.append(folder)
    return folders


class _Balls:
    """Nested balls in a round body, slice by slice."""

    def __init__(self, shape: tuple[int, int, int], spacing_mm: NDArray, num_labels: int, rng: np.random.Generator) -> None:
        self.shape, self.spacing_mm, self.num_labels = shape, spacing_mm, num_labels
        extent = np.array(shape) * spacing_mm
        self.centre = extent * rng.uniform(0.4, 0.6, 3)
        self.radius = 0.2 * extent.min() * rng.uniform(0.8, 1.2)
        x, y = (np.arange(n, dtype=np.float32) * np.float32(s) for n, s in zip(shape[:2], spacing_mm[:2], strict=True))
        self.plane = (x[:, None] - np.float32(self.centre[0])) ** 2 + (y[None] - np.float32(self.centre[1])) ** 2
        half_x, half_y = extent[0] / 2, extent[1] / 2
        self.body = ((x[:, None] - half_x) / (0.9 * half_x)) ** 2 + ((y[None] - half_y) / (0.8 * half_y)) ** 2 < 1

    def labels(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the label map's slices (X, Y)."""
        for index in range(self.shape[2]):
            squared = self.plane + (index * self.spacing_mm[2] - self.centre[2]) ** 2
            label = np.zeros(self.shape[:2], np.uint8)
            for value in range(1, self.num_labels + 1):
                label[squared < (self.radius * (1 - (value - 1) / self.num_labels)) ** 2] = value
            yield label

    def images(self, channel: int, state: int) -> Iterator[NDArray[np.int16]]:
        """Yield one channel's slices (X, Y): HU for one channel, arbitrary units for several."""
        rng = np.random.default_rng([state, channel])
        noise = np.rint(rng.standard_normal(self.shape[:2]) * 12).astype(np.int16)
        base = np.where(self.body, 40, -1000 if self.num_labels == 2 else 0).astype(np.int16)
        for label in self.labels():
            # one tile of noise, shifted at random: new noise for each voxel would take most of the time
            shifted = np.roll(noise, tuple(rng.integers(0, self.shape[:2])), (0, 1))
            yield base + shifted + label.astype(np.int16) * np.int16(60 + 20 * channel)
