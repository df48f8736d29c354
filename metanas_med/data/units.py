"""Detection of headers in other units than millimetres."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

#: centimetres, metres and micrometres are wrong by a factor of ten or more; spacings of one kind of scan differ by far less
OTHER_UNITS = 9.0


def usual_spacing(spacings: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """Return the spacing (mm) with the median voxel size."""
    ordered = sorted(spacings, key=_voxel_edge)
    return tuple(ordered[(len(ordered) - 1) // 2])


def _voxel_edge(spacing: Sequence[float]) -> float:
    """Return the geometric mean of a voxel's edges (mm)."""
    return math.prod(spacing) ** (1 / len(spacing))


def in_other_units(spacing: Sequence[float], usual: Sequence[float], of_whom: str) -> str:
    """Return why ``spacing`` (mm) seems to be in other units, if that of ``of_whom`` is about ``usual``; else an empty string."""
    if abs(math.log(_voxel_edge(spacing) / _voxel_edge(usual))) < math.log(OTHER_UNITS):
        return ""
    return (
        f"its voxels are {by(spacing)} mm; those of {of_whom} are about {by(usual)} mm. "
        "Is its header in other units? Fix it: spacing is in millimetres"
    )


def by(sizes: Sequence[float]) -> str:
    """Return sizes as text, such as ``1 x 1 x 2.5``."""
    return " x ".join(f"{size:.4g}" for size in sizes)
