"""The ten phantom organs: what each looks like, where it lies, what surrounds it and how it is imaged.

Every organ has neighbours of its own intensity, so that a threshold does not find it; its place and shape do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from . import phantom_shapes as shapes
from .phantom_shapes import Field, Triple


@dataclass(frozen=True)
class Anatomy:
    """One person's implicit shapes: the organs by label (1, 2, ...) and all else as (field, tissue)."""

    organs: list[Field]
    others: list[tuple[Field, str]]


@dataclass(frozen=True)
class Organ:
    """A phantom data set: ``values`` gives each tissue's intensity in each channel, ``noise`` is in the same unit."""

    name: str
    description: str
    style: str  #: "CT" (HU), "MR" (arbitrary, bias field, Rician noise) or "PET" (uptake, blurred, counts)
    modality: tuple[str, ...]
    labels: tuple[str, ...]
    shape: tuple[int, int, int]
    spacing_mm: Triple
    build: Callable[[Field, np.random.Generator], Anatomy]
    values: dict[str, tuple[float, ...]]
    noise: float
    body: Triple = (0.92, 0.78, 1.6)
    texture: float = 0.03  #: standard deviation of the tissue texture, as a share of the intensity range
    organ_tissues: tuple[str, ...] = field(default=("organ",))


class _Vary:
    """Per-person variation of one number or place at a time."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def at(self, x: float, y: float, z: float, spread: float = 0.035) -> Triple:
        dx, dy, dz = self.rng.normal(0, spread, 3)
        return (x + float(dx), y + float(dy), z + float(dz))

    def size(self, value: float, share: float = 0.09) -> float:
        return value * float(np.exp(self.rng.normal(0, share)))

    def sizes(self, a: float, b: float, c: float) -> Triple:
        return (self.size(a), self.size(b), self.size(c))


def _spine(p: Field, v: _Vary) -> Field:
    return shapes.tube(p, [v.at(0, -0.56, -1.5, 0.02), v.at(0, -0.52, 0, 0.02), v.at(0, -0.56, 1.5, 0.02)], v.size(0.14))


def _bean(p: Field, rng: np.random.Generator) -> Anatomy:
    v = _Vary(rng)
    organ = shapes.ellipsoid(p, v.at(-0.38, 0.1, 0.1), v.sizes(0.3, 0.26, 0.42))
    others = [
        (shapes.ellipsoid(p, v.at(0.42, 0.15, 0.3), v.sizes(0.28, 0.2, 0.22)), "organ"),
        (shapes.ellipsoid(p, v.at(0.3, -0.1, -0.5), v.sizes(0.2, 0.25, 0.2)), "organ"),
        (shapes.ellipsoid(p, v.at(0.05, 0.45, -0.3), v.sizes(0.18, 0.13, 0.3)), "air"),
        (_spine(p, v), "bone"),
    ]
    return Anatomy([organ], others)


def _bent_tube(p: Field, rng: np.random.Generator) -> Anatomy:
    v = _Vary(rng)
    path = shapes.arc(v.at(0.0, -0.08, 0.0), v.size(0.44, 0.06), -0.35, 3.3, rise=v.size(0.7))
    organ = shapes.tube(p, path, v.size(0.14, 0.06), v.size(0.2, 0.06))
    straight = [v.at(0.12, -0.1, -1.2), v.at(0.1, -0.05, 1.2)]
    others = [
        (shapes.tube(p, straight, v.size(0.13)), "organ"),
        (shapes.ellipsoid(p, v.at(-0.45, -0.35, -0.5), v.sizes(0.2, 0.16, 0.25)), "organ"),
        (_spine(p, v), "bone"),
    ]
    return Anatomy([organ], others)


def _ring(p: Field, rng: np.random.Generator) -> Anatomy:
    v = _Vary(rng)
    organ = shapes.torus(p, v.at(0, 0.05, 0.05), v.size(0.42, 0.06), v.size(0.17, 0.07), squeeze=v.size(0.8, 0.05))
    others = [
        (shapes.ellipsoid(p, v.at(0, 0.05, 0.05), v.sizes(0.16, 0.14, 0.5)), "dark"),
        (shapes.tube(p, [v.at(-0.6, -0.4, -0.6), v.at(0.6, -0.35, -0.5)], v.size(0.15)), "organ"),
        (shapes.ellipsoid(p, v.at(0.25, 0.1, 0.68), v.sizes(0.3, 0.22, 0.16)), "organ"),
    ]
    return Anatomy([organ], others)


def _lobes(p: Field, rng: np.random.Generator) -> Anatomy:
    v = _Vary(rng)
    mean = np.array([0.12, -0.08, 0.14, 0.2, 0.05, 0.12, 0.14])
    organ = shapes.lobed(p, v.at(0.22, 0.08, -0.05), v.size(0.44, 0.06), list(mean + rng.normal(0, 0.025, 7)))
    others = [
        (shapes.ellipsoid(p, v.at(-0.48, 0.12, 0.1), v.sizes(0.2, 0.3, 0.3)), "organ"),
        (shapes.ellipsoid(p, v.at(-0.2, -0.35, -0.5), v.sizes(0.22, 0.18, 0.2)), "organ"),
        (shapes.tube(p, [v.at(-0.12, 0.2, -1.0), v.at(-0.1, 0.15, 1.0)], v.size(0.08)), "bright"),
    ]
    return Anatomy([organ], others)


def _shell_core(p: Field, rng: np.random.Generator) -> Anatomy:
    v = _Vary(rng)
    centre = v.at(0.0, 0.02, 0.0)
    outer = shapes.lobed(p, centre, v.size(0.48, 0.06), [0.06, 0.0, 0.05, 0.08, -0.1, 0.05, 0.05])
    core = shapes.ellipsoid(p, v.at(centre[0], centre[1] + 0.06, centre[2], 0.02), v.sizes(0.25, 0.2, 0.26))
    others = [
        (shapes.ellipsoid(p, v.at(0.62, 0.0, 0.1), v.sizes(0.14, 0.24, 0.4)), "organ"),
        (shapes.ellipsoid(p, v.at(-0.62, 0.05, -0.1), v.sizes(0.15, 0.2, 0.4)), "core"),
        (shapes.ellipsoid(p, v.at(0.0, -0.58, 0.0), v.sizes(0.2, 0.13, 0.6)), "bright"),
    ]
    return Anatomy([shapes.without(outer, core), core], others)


def _pair(p: Field, rng: np.random.Generator) -> Anatomy:
    v = _Vary(rng)
    organs = []
    for side in (-1, 1):
        whole = shapes.ellipsoid(p, v.at(0.48 * side, -0.12, 0.04 * side), v.sizes(0.24, 0.26, 0.46))
        notch = shapes.ellipsoid(p, v.at(0.24 * side, -0.02, 0.04 * side, 0.02), v.sizes(0.15, 0.12, 0.18))
        organs.append(shapes.without(whole, notch))
    others = [
        (shapes.ellipsoid(p, v.at(0.35, 0.45, 0.35), v.sizes(0.38, 0.18, 0.35)), "organ"),
        (shapes.tube(p, [v.at(-0.05, -0.28, -1.2), v.at(-0.05, -0.25, 1.2)], v.size(0.09)), "organ"),
        (shapes.ellipsoid(p, v.at(-0.3, 0.42, -0.1), v.sizes(0.2, 0.12, 0.3)), "air"),
        (_spine(p, v), "bone"),
    ]
    return Anatomy(organs, others)


def _vertebra(p: Field, rng: np.random.Generator) -> Anatomy:
    v = _Vary(rng)
    x, y, z = v.at(0.0, -0.1, 0.0)
    block = shapes.disc(p, (x, y + 0.1, z), (v.size(0.34, 0.06), v.size(0.26, 0.06)), v.size(0.2, 0.06))
    ring = shapes.torus(p, (x, y - 0.2, z), v.size(0.2, 0.05), 0.085)
    arch = shapes.both(ring, np.abs(p[2] - np.float32(z)) - np.float32(0.18))
    wings = shapes.tube(p, [(x - 0.55, y - 0.3, z), (x - 0.1, y - 0.2, z), (x + 0.1, y - 0.2, z), (x + 0.55, y - 0.3, z)], 0.075)
    spike = shapes.tube(p, [(x, y - 0.4, z), (x, y - 0.66, z - 0.12)], v.size(0.08))
    canal = shapes.tube(p, [(x, y - 0.2, z - 2), (x, y - 0.2, z + 2)], 0.12)
    organ = shapes.without(shapes.union(block, arch, wings, spike), canal)
    gap = v.size(0.58, 0.04)
    others = [(canal, "dark")]
    for height in (-gap, gap):  # its neighbours in the spine: the same bone, not the organ
        others.append((shapes.disc(p, (x, y + 0.1, z + height), (v.size(0.33), v.size(0.26)), 0.18), "organ"))
    others.append((shapes.tube(p, [v.at(-0.75, -0.2, 0.4), v.at(-0.6, 0.4, 0.1), v.at(-0.2, 0.62, -0.1)], 0.06), "organ"))
    others.append((shapes.tube(p, [v.at(0.75, -0.2, 0.4), v.at(0.6, 0.4, 0.1), v.at(0.2, 0.62, -0.1)], 0.06), "organ"))
    return Anatomy([organ], others)


def _lesions(p: Field, rng: np.random.Generator) -> Anatomy:
    v = _Vary(rng)
    host = shapes.ellipsoid(p, v.at(0.3, 0.05, 0.1), v.sizes(0.45, 0.42, 0.5))
    spots = [shapes.lobed(p, v.at(0.3, 0.05, 0.15, 0.09), v.size(0.19, 0.1), list(rng.normal(0, 0.08, 7)))]
    if rng.random() < 0.6:
        spots.append(shapes.ellipsoid(p, v.at(0.36, 0.12, -0.18, 0.06), v.sizes(0.13, 0.13, 0.14)))
    others = [
        (host, "host"),
        (shapes.ellipsoid(p, v.at(-0.45, -0.15, 0.35), v.sizes(0.17, 0.15, 0.2)), "organ"),
        (shapes.ellipsoid(p, v.at(-0.05, 0.3, -0.68), v.sizes(0.22, 0.2, 0.18)), "organ"),
        (shapes.ellipsoid(p, v.at(-0.4, 0.3, -0.1), v.sizes(0.2, 0.18, 0.3)), "dark"),
    ]
    return Anatomy([shapes.both(shapes.union(*spots), host)], others)


def _layers(p: Field, rng: np.random.Generator) -> Anatomy:
    v = _Vary(rng)
    path = shapes.arc(v.at(-0.1, -0.25, 0.0), v.size(0.5, 0.06), 0.25, 2.4, rise=v.size(0.35), num=7)
    outer = shapes.tube(p, path, v.size(0.26, 0.05), v.size(0.18, 0.05))
    split = p[2] - np.float32(rng.normal(0.0, 0.03)) - np.float32(0.25) * (p[1] - np.float32(0.1))
    others = [
        (shapes.tube(p, [v.at(-0.6, -0.5, -0.4), v.at(0.6, -0.45, -0.4)], v.size(0.16)), "organ"),
        (shapes.ellipsoid(p, v.at(0.0, -0.1, 0.6), v.sizes(0.35, 0.25, 0.15)), "top"),
        (shapes.ellipsoid(p, v.at(-0.1, -0.28, 0.0), v.sizes(0.14, 0.12, 0.25)), "dark"),
    ]
    return Anatomy([shapes.both(outer, split), shapes.both(outer, -split)], others)


def _discs(p: Field, rng: np.random.Generator) -> Anatomy:
    v = _Vary(rng)
    pitch, radii = v.size(0.46, 0.04), (v.size(0.36, 0.06), v.size(0.28, 0.06))
    x, y, z = v.at(0.0, -0.05, 0.0)
    flat = [shapes.disc(p, (x, y + 0.04 * k * k, z + k * pitch), radii, v.size(0.085, 0.06)) for k in (-1, 0, 1)]
    others = [
        (shapes.disc(p, (x, y + 0.02, z), (radii[0] * 0.95, radii[1] * 0.95), 1.4), "marrow"),
        (shapes.tube(p, [(x, y - 0.42, -2), (x, y - 0.42, 2)], v.size(0.1)), "bright"),
        (shapes.disc(p, v.at(0.0, 0.52, 0.3), (0.35, 0.15), v.size(0.1)), "organ"),
        (shapes.disc(p, v.at(0.0, 0.5, -0.35), (0.3, 0.14), v.size(0.1)), "organ"),
    ]
    return Anatomy([shapes.union(*flat)], others)


_CT = {"air": (-1000.0,), "rim": (-90.0,), "body": (40.0,), "bone": (700.0,)}
_MR = {"air": (15.0,), "rim": (620.0,), "body": (300.0,), "dark": (120.0,), "bright": (800.0,)}
_PET = {"air": (0.05,), "rim": (0.4,), "body": (1.0,), "dark": (0.3,)}
_TWO = ("organ", "organ")

ORGANS: tuple[Organ, ...] = (
    Organ("Phantom01_Bean", "an ellipsoid on the left", "CT", ("CT",), ("bean",), (40, 40, 40), (1.5, 1.5, 1.5),
          _bean, {**_CT, "organ": (115.0,)}, 22.0),
    Organ("Phantom02_BentTube", "a bent, widening tube", "CT", ("CT",), ("tube",), (44, 40, 32), (1.0, 1.0, 1.5),
          _bent_tube, {**_CT, "organ": (130.0,)}, 25.0),
    Organ("Phantom03_Ring", "an oval ring", "MR", ("MRI",), ("ring",), (40, 40, 36), (1.0, 1.0, 1.0),
          _ring, {**_MR, "organ": (440.0,)}, 30.0),
    Organ("Phantom04_Lobes", "a lobed gland", "MR", ("MRI",), ("gland",), (36, 40, 44), (1.2, 1.0, 1.0),
          _lobes, {**_MR, "organ": (190.0,)}, 26.0),
    Organ("Phantom05_ShellCore", "a shell and its core, thick slices", "MR", ("T2", "ADC"), ("shell", "core"),
          (48, 48, 10), (0.8, 0.8, 4.0), _shell_core,
          {"air": (15.0, 20.0), "rim": (600.0, 150.0), "body": (260.0, 420.0), "bright": (800.0, 300.0),
           "organ": (430.0, 480.0), "core": (330.0, 700.0)}, 28.0, organ_tissues=("organ", "core")),
    Organ("Phantom06_Pair", "a left and a right organ", "CT", ("CT",), ("left", "right"), (48, 38, 36), (2.0, 2.0, 2.5),
          _pair, {**_CT, "organ": (150.0,)}, 28.0, organ_tissues=_TWO),
    Organ("Phantom07_Vertebra", "one bone of a row", "CT", ("CT",), ("vertebra",), (40, 40, 40), (1.0, 1.0, 1.0),
          _vertebra, {**_CT, "organ": (480.0,), "dark": (10.0,)}, 60.0),
    Organ("Phantom08_Lesions", "small spots of uptake in a host organ", "PET", ("PET",), ("lesion",), (40, 36, 36),
          (2.5, 2.5, 2.5), _lesions, {**_PET, "organ": (6.0,), "host": (2.2,)}, 0.12),
    Organ("Phantom09_Layers", "a curved organ of two layers", "MR", ("MRI",), ("top", "bottom"), (40, 44, 32), (1.0, 1.0, 1.2),
          _layers, {**_MR, "organ": (430.0,), "top": (490.0,)}, 30.0, organ_tissues=("top", "organ")),
    Organ("Phantom10_Discs", "three flat discs, thick sagittal slices", "MR", ("MRI",), ("discs",), (12, 44, 44),
          (3.6, 0.9, 0.9), _discs, {**_MR, "organ": (210.0,), "marrow": (470.0,)}, 30.0),
)  # fmt: skip
