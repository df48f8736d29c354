"""Segments a NIfTI scan with model.onnx and plan.json: numpy, scipy and onnxruntime alone (nibabel reads and writes files).

    python reference_predict.py SCAN.nii.gz [FURTHER_CHANNEL.nii.gz ...] OUT.nii.gz

Research only; not a medical device. Steps: axes nearest to RAS+, normalisation, resampling to the plan's grid, blended windows,
resampling back, largest probability, small pieces dropped, axes of the scan.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage


def canonical_axes(affine):
    """Return (axes, flips): canonical axis i is the scan's axis axes[i], reversed where flips[i]. ``affine`` (4, 4) to RAS+ mm."""
    rzs = np.asarray(affine, dtype=float)[:3, :3]
    zooms = np.sqrt((rzs**2).sum(0))
    p, s, q = np.linalg.svd(rzs / np.where(zooms == 0, 1, zooms), full_matrices=False)
    keep = s > s.max() * 3 * np.finfo(s.dtype).eps
    rotation = p[:, keep] @ q[keep]
    axes, flips = [0, 0, 0], [False, False, False]
    rotation = rotation.copy()
    for axis in np.argsort(np.min(-(rotation**2), axis=0), kind="stable"):
        column = rotation[:, axis]
        out = int(np.argmax(np.abs(column)))
        axes[out], flips[out] = int(axis), bool(column[out] < 0)
        rotation[out] = 0
    return axes, flips


def to_canonical(array, affine):
    """Return an array (C, X, Y, Z) in canonical axes, its spacing in mm, and the turn that ``undo`` takes."""
    axes, flips = canonical_axes(affine)
    turned = np.flip(array.transpose(0, *(1 + a for a in axes)), [1 + i for i in range(3) if flips[i]])
    spacing = np.sqrt((np.asarray(affine, dtype=float)[:3, :3] ** 2).sum(0))[axes]
    return turned, spacing, (axes, flips)


def undo(array, turn):
    """Return an array (X, Y, Z) in the scan's own axes."""
    axes, flips = turn
    return np.flip(array, [i for i in range(3) if flips[i]]).transpose(np.argsort(axes))


def normalise(channel, how):
    """Return one channel (X, Y, Z) float32: CT clipped and standardised, other channels by their own median and quartiles."""
    values = channel.astype(np.float32)
    if how["kind"] == "ct":
        return (np.clip(values, how["low"], how["high"]) - np.float32(how["center"])) / np.float32(how["scale"])
    inside = values[values > values.min()]
    if inside.size < 0.05 * values.size:
        inside = values.ravel()
    low, middle, high = np.percentile(inside, [25, 50, 75])
    spread = (high - low) / 1.349
    if spread <= 1e-6 * abs(middle):
        spread = float(inside.std(dtype=np.float64)) or float(values.std(dtype=np.float64)) or 1.0
    with np.errstate(over="ignore"):
        values = (values - np.float32(middle)) / np.float32(3.0 * spread)
    return np.arcsinh(np.clip(values, np.float32(-1e6), np.float32(1e6))) * np.float32(3.0)


def linear(old, new):
    """Return weights (new, old): linear interpolation between the centres of voxels."""
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    first = np.floor(place).astype(int)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), first), 1 - (place - first))
    np.add.at(weights, (np.arange(new), np.minimum(first + 1, old - 1)), place - first)
    return weights


def means(old, new):
    """Return weights (new, old): means over the voxels that each new voxel covers at least in part."""
    weights = np.zeros((new, old))
    for i in range(new):
        start, stop = (i * old) // new, -(-((i + 1) * old) // new)
        weights[i, start:stop] = 1 / (stop - start)
    return weights


def resample(volume, shape, shrink=True):
    """Return a volume (..., X, Y, Z) at ``shape``: means along axes that shrink by 1.5 or more, linear along the others."""
    for back, new in zip((-3, -2, -1), shape, strict=True):
        old = volume.shape[back]
        if old != new:
            weights = (means if shrink and old >= 1.5 * new else linear)(old, new).astype(np.float32)
            volume = np.moveaxis(np.moveaxis(volume, back, -1) @ weights.T, -1, back)
    return np.ascontiguousarray(volume, dtype=np.float32)


def prepare(image, spacing, plan):
    """Return the network's input (C + 3, X, Y, Z) of a canonical image (C, X, Y, Z): planned channels, then coordinates."""
    axes = plan["axes"]
    shape = [max(1, round(image.shape[1 + a] * spacing[a] / s)) for a, s in zip(axes, plan["spacing"], strict=True)]
    channels = [normalise(c, how).transpose(axes) for c, how in zip(image, plan["intensities"], strict=True)]
    planned = [resample(channel, shape) for channel in channels]
    grid = np.meshgrid(*[(np.arange(n, dtype=np.float32) + 0.5) * np.float32(2 / n) - 1 for n in shape], indexing="ij")
    return np.stack([*planned, *grid]).astype(np.float32)


def windows(size, view):
    """Return the window's shape and the first voxels of all windows: half a window apart, long axes whole up to 1.3 views."""
    window = [n if n <= 1.3 * v else v for n, v in zip(size, view, strict=True)]
    starts = []
    for n, w in zip(size, window, strict=True):
        step = w if w == n else max(1, int(w * 0.5))
        count = next(d for d in range(math.ceil(n / step)) if d * step + w >= n) + 1
        starts.append([min(i * step, n - w) for i in range(count)])
    return window, [(x, y, z) for x in starts[0] for y in starts[1] for z in starts[2]]


def blend(window):
    """Return the weights (X, Y, Z) of a window's voxels: Gaussian with a standard deviation of an eighth, at least 0.001."""
    lines = [np.exp(-((np.arange(n) - (n - 1) / 2) ** 2) / (2 * (0.125 * n) ** 2)) for n in window]
    weights = lines[0][:, None, None] * lines[1][None, :, None] * lines[2][None, None, :]
    return np.maximum(weights, max(weights.min(), 1e-3)).astype(np.float32)


def probabilities(inputs, run, view):
    """Return class probabilities (K + 1, X, Y, Z) of inputs (C + 3, X, Y, Z); ``run`` maps (B, C + 3, x, y, z) to probabilities."""
    window, starts = windows(inputs.shape[1:], view)
    weights, total, share = blend(window), None, np.zeros(inputs.shape[1:], np.float32)
    for start in starts:
        place = tuple(slice(s, s + w) for s, w in zip(start, window, strict=True))
        found = run(np.ascontiguousarray(inputs[(slice(None), *place)])[None])[0]
        total = np.zeros((len(found), *inputs.shape[1:]), np.float32) if total is None else total
        total[(slice(None), *place)] += weights * found
        share[place] += weights
    return total / share


def labels_of(scores, shape, plan):
    """Return the organ map (X, Y, Z) uint8 of class probabilities in plan order, in canonical axes and ``shape``."""
    axes = plan["axes"]
    whole = resample(scores, [shape[a] for a in axes], shrink=False)
    found = whole.transpose(0, *(1 + axes.index(a) for a in range(3))).argmax(0).astype(np.uint8)
    for organ, one_piece in enumerate(plan["in_one_piece"], start=1):
        pieces, count = ndimage.label(found == organ, np.ones((3, 3, 3)))
        if one_piece and count > 1:
            sizes = np.bincount(pieces.ravel())
            small = sizes < 0.25 * sizes[1:].max()
            small[0] = False
            found[small[pieces]] = 0
    return found


def segment(image, affine, run, note):
    """Return the label map (X, Y, Z) uint8 of an image (C, X, Y, Z) with an affine (4, 4) to mm, RAS+, on the image's grid."""
    plan = note["plan"]
    if len(image) != len(plan["intensities"]):
        raise SystemExit(f"found {len(image)} channel(s), the model takes {len(plan['intensities'])}")
    turned, spacing, turn = to_canonical(np.asarray(image), affine)
    scores = probabilities(prepare(turned, spacing, plan), run, plan["view"])
    organs = labels_of(scores, turned.shape[1:], plan)
    return np.ascontiguousarray(undo(np.array([0, *note["label_values"]], np.uint8)[organs], turn))


def main(arguments):
    import nibabel as nib
    import onnxruntime

    *scans, out = arguments
    here = Path(__file__).parent
    note = json.loads((here / "plan.json").read_text())
    session = onnxruntime.InferenceSession(str(here / "model.onnx"), providers=["CPUExecutionProvider"])
    files = [nib.load(scan) for scan in scans]
    arrays = [np.asanyarray(file.dataobj) for file in files]
    image = np.concatenate([np.moveaxis(a, -1, 0) if a.ndim == 4 else a[None] for a in arrays])
    labels = segment(image, files[0].affine, lambda x: session.run(None, {"image": x})[0], note)
    nib.save(nib.Nifti1Image(labels, files[0].affine), out)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(sys.argv[1:])
