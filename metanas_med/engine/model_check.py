"""Checks of what a model's description claims, before a network of that size is built or a scan is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data.plan import Plan
from ..errors import CheckpointError

#: errors that unexpected values in a description cause in the code that reads it
WRONG_VALUES = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, RuntimeError, MemoryError)
#: the most voxels of a view, and of a stride: far above any that a plan can have
_MOST_VIEW, _MOST_STRIDE = 2**27, 64
#: the most networks of an average
_MOST_MEMBERS = 64


def check_shapes(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if the network that ``build`` makes has other tensors than ``tensors``; no memory is taken for it."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        net = build()
    expected, found = _described(net.state_dict()), _described(tensors)
    if expected != found:
        name = min(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"the tensors do not fit the architecture: {name[:80]} is {found.get(name, 'absent')}, expected {expected.get(name, 'none')}"
        )


def _described(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}" for name, value in tensors.items()}


def check_plan(plan: Plan, levels: int) -> None:
    """Raise ValueError or TypeError if a plan cannot be applied to any scan by a network of ``levels``."""
    _need(sorted(plan.axes) == [0, 1, 2] and _are_whole(plan.axes), "plan.axes")
    _need(len(plan.spacing) == 3 and all(1e-4 < size < 1e4 for size in plan.spacing), "plan.spacing")
    _need(len(plan.view) == 3 and _are_whole(plan.view) and min(plan.view) > 0 and math.prod(plan.view) < _MOST_VIEW, "plan.view")
    _need(len(plan.strides) == levels - 1, "plan.strides")
    _need(all(0 < step <= _MOST_STRIDE for steps in plan.strides for step in steps), "plan.strides")
    _need(len(plan.intensities) > 0, "plan.intensities")
    for channel in plan.intensities:
        numbers = (channel.low, channel.high, channel.center, channel.scale)
        _need(channel.kind in ("ct", "robust") and all(_is_number(value) for value in numbers), "plan.intensities")
        _need(channel.low <= channel.high and channel.scale > 0, "plan.intensities")


def check_note(note: Mapping[str, Any]) -> None:
    """Raise ValueError or TypeError if parts of a model's description have another type than was written."""
    _need(isinstance(note["dataset"], str), "dataset")
    for organ in note["organs"]:
        _need(isinstance(organ["labels"], list) and isinstance(organ.get("parts") or [], list), "organs")
    hashes = note.get("support_content", [])
    _need(isinstance(hashes, list) and all(isinstance(digest, str) for digest in hashes), "support_content")
    pieces = note["plan"].get("in_one_piece", [])
    _need(isinstance(pieces, list) and all(isinstance(piece, bool) for piece in pieces), "plan.in_one_piece")
    _need(isinstance(note.get("tta", False), bool), "tta")
    codes = note.get("snomed", {})
    _need(isinstance(codes, dict) and all(isinstance(text, str) for pair in codes.items() for text in pair), "snomed")


def check_relaxed(progress: float, prune: float) -> None:
    """Raise ValueError if the state of a soft network cannot be one."""
    _need(0 <= progress <= 1 and 0 <= prune <= 1, "relaxed")


def check_members(members: Any) -> None:
    """Raise ValueError if a model cannot be the average of so many networks."""
    _need(type(members) is int and 1 <= members <= _MOST_MEMBERS, "members")


def check_organs(names: Sequence[Any], values: Sequence[Sequence[Any]], parts: Sequence[Sequence[Any]]) -> None:
    """Raise ValueError or TypeError if organs have no usable names and label values."""
    _need(0 < len(names) < 256 and len(set(names)) == len(names), "organs")
    _need(all(isinstance(name, str) and name for name in (*names, *(part for each in parts for part in each))), "organs: names")
    given = [value for each in values for value in each]
    _need(all(values) and _are_whole(given) and all(0 < value < 256 for value in given), "organs: labels")
    _need(len(set(given)) == len(given), "organs: labels")


def check_spacing(spacing: Sequence[float]) -> None:
    """Raise ValueError if the voxel size of the support cannot be one; () means that it is unknown."""
    _need(len(spacing) in (0, 3) and all(1e-4 < size < 1e4 for size in spacing), "support_spacing")


def _are_whole(values: Sequence[Any]) -> bool:
    return all(type(value) is int for value in values)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"{what} is not possible")
