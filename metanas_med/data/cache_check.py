"""Checks of a cache file before its content is used: nothing is read from elsewhere, and the description fits the arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np

#: the filters of HDF5 itself and of h5py (deflate, shuffle, Fletcher32, LZF); others are loaded as libraries from this machine
_FILTERS = (1, 2, 3, 32000)
_MOST_META = 2**28  # bytes
_MOST_RATIO = 1032  # deflate cannot compress further, and LZF compresses less


def plain_array(file: h5py.File, place: str, kinds: str, shape: Sequence[int] | None = None) -> h5py.Dataset:
    """Return the array at ``place`` ("meta", or "images/case") if its values are numbers in this file, else raise ValueError.

    ``kinds`` are the kinds of numbers that are accepted ("u": uint8 only), ``shape`` is the expected shape (None: one axis).
    """
    found: Any = file
    for name in place.split("/", 1):
        if not isinstance(found, h5py.Group):
            raise ValueError(f"{place}: {found.name} is not a group")
        if not isinstance(found.get(name, getlink=True), h5py.HardLink):  # KeyError if it is absent
            raise ValueError(f"{place} is a link")
        found = found[name]
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise ValueError(f"{place} is no array, or its values are in another file")
    if found.dtype.kind not in kinds or found.dtype.itemsize > 8 or (kinds == "u" and found.dtype != np.uint8):
        raise ValueError(f"{place} has values of type {found.dtype}")
    if len(found.shape or ()) != 1 if shape is None else tuple(found.shape or ()) != tuple(shape):
        raise ValueError(f"{place} has shape {found.shape}, expected {tuple(shape) if shape else 'one axis'}")
    settings = found.id.get_create_plist()
    if unknown := {settings.get_filter(i)[0] for i in range(settings.get_nfilters())} - set(_FILTERS):
        raise ValueError(f"{place} needs the filter {min(unknown)}, which caches do not use")
    stored = found.id.get_storage_size()
    complete = found.chunks is None or found.id.get_num_chunks() == math.prod(
        -(-size // chunk) for size, chunk in zip(found.shape, found.chunks, strict=True)
    )
    if not complete or found.nbytes > stored * _MOST_RATIO:
        raise ValueError(f"{place} claims {found.nbytes} bytes, {stored} are stored")
    if shape is None and found.nbytes > _MOST_META:
        raise ValueError(f"{place} has {found.nbytes} bytes, expected at most {_MOST_META}")
    return found


def check_meta(meta: Any) -> None:
    """Raise ValueError, TypeError or KeyError if the description of a cache lacks something or cannot be true."""
    _need(isinstance(meta, dict), "it is not an object")
    _need(is_plain_name(meta["name"]), "name")
    _need(isinstance(meta["group"], str), "group")
    _need(_is_list_of(str, meta["related"]), "related")
    _need(_is_list_of(str, meta["modality"]) and len(meta["modality"]) > 0, "modality")
    _need(isinstance(meta["patients_known"], bool), "patients_known")
    for key in ("labels", "given_labels"):
        labels = meta[key]
        _need(isinstance(labels, dict) and all(isinstance(name, str) for name in labels.values()), key)
        _need(all(value.isascii() and value.isdigit() and len(value) < 4 and 0 < int(value) < 256 for value in labels), key)
    _need(isinstance(meta["source"], dict) and isinstance(meta["source"]["labels"], dict), "source")
    _need(_is_list_of(dict, meta["set_aside"]), "set_aside")
    for row in meta["set_aside"]:
        _need(row.keys() == {"dataset", "case", "problem"} and _is_list_of(str, list(row.values())), "set_aside")
    _need(_is_list_of(dict, meta["cases"]) and len(meta["cases"]) > 0, "cases")
    for entry in meta["cases"]:
        _check_entry(entry, meta)
    _need(len({entry["name"] for entry in meta["cases"]}) == len(meta["cases"]), "two cases have one name")


def is_plain_name(name: Any) -> bool:
    """Return whether ``name`` is the name of a file or folder, not a path."""
    return isinstance(name, str) and name.isprintable() and bool(name.strip(". ")) and "/" not in name


def _check_entry(entry: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    name = entry["name"]
    _need(is_plain_name(name), "the name of a case")
    _need(isinstance(entry["patient"], str) and isinstance(entry["content_hash"], str), f"patient or hash of {name}")
    shape, spacing, channels = entry["shape"], entry["spacing"], entry["num_channels"]
    _need(_is_list_of(int, shape) and len(shape) == 3 and min(shape) > 0, f"shape of {name}")
    _need(type(channels) is int and channels == len(meta["modality"]), f"channels of {name}")
    affine = np.array(entry["affine"], dtype=np.float64)
    _need(affine.shape == (4, 4) and bool(np.isfinite(affine).all()), f"affine of {name}")
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    _need(len(spacing) == 3 and min(spacing) > 0 and np.allclose(edges, spacing, rtol=1e-4), f"spacing of {name}")
    for (low, high), size in zip(entry["content_box"], shape, strict=True):
        _need(type(low) is int and type(high) is int and 0 <= low < high <= size, f"content_box of {name}")
    voxels = entry["label_voxels"]
    _need(isinstance(voxels, dict) and voxels.keys() <= meta["labels"].keys(), f"label_voxels of {name}")
    _need(all(type(count) is int and 0 < count <= math.prod(shape) for count in voxels.values()), f"label_voxels of {name}")


def _is_list_of(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"its description cannot be used: {what}")
