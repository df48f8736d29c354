"""Views of planned scans: foreground-oversampled, augmented patches, and the fixed views for the closed-form head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..ignored import IGNORED
from .plan import Triple
from .prefetch import Prefetcher


@dataclass(frozen=True)
class Volume:
    """One planned scan: ``image`` (C, X, Y, Z) float32, ``label`` (X, Y, Z) uint8 with organs 1..K and IGNORED, both in plan order."""

    name: str
    image: torch.Tensor
    label: torch.Tensor
    missing: tuple[int, ...] = ()  #: organs that are not annotated in this scan: its background may show them


@dataclass(frozen=True)
class Batch:
    """``images`` (B, C, X, Y, Z), ``coords`` (B, 3, X, Y, Z), ``labels`` (B, X, Y, Z) int64.

    Coordinates cover [-1, 1] over the whole scan; they lie beyond that range where the scan is padded. ``missing``: for each
    entry the organs that are not annotated in its scan; empty if all organs are annotated in all of them.
    """

    images: torch.Tensor
    coords: torch.Tensor
    labels: torch.Tensor
    missing: tuple[tuple[int, ...], ...] = ()


def coordinates(shape: Sequence[int]) -> torch.Tensor:
    """Return the normalised coordinates of a scan's voxels, (3, X, Y, Z), from -1 at one border to 1 at the other."""
    axes = [(torch.arange(n, dtype=torch.float32) + 0.5) * (2.0 / n) - 1.0 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def take_turns(scans: Sequence[int], size: int, generator: np.random.Generator) -> list[int]:
    """Return ``size`` of the ``scans`` in random order; their counts differ by at most one."""
    order: list[int] = []
    while len(order) < size:
        order += [scans[int(i)] for i in generator.permutation(len(scans))]
    return order[:size]


class PatchSampler:
    """Draws training batches from a few planned scans; all randomness comes from ``generator``.

    Patches have the plan's view size; smaller scans are padded by repeating their edges. A share ``foreground`` of the patches
    is placed around a random voxel of a random organ. ``augment`` is the strength of augmentation, 0 to 4 (0: none). Cost: one
    patch copy and, half of the time at a strength of 1, one trilinear warp.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        view: Triple,
        generator: np.random.Generator,
        *,
        foreground: float = 0.7,
        augment: float = 1.0,
    ) -> None:
        padded = [_pad_to(v, view) for v in volumes]
        self.volumes = [volume for volume, _ in padded]
        #: for each scan: the voxels padded before it, and its own shape; coordinates refer to the unpadded scan
        self._frames = [(before, v.label.shape) for v, (_, before) in zip(volumes, padded, strict=True)]
        self._views: dict[int, Batch] = {}
        self.view = view
        self.foreground = foreground
        self.generator = generator
        self.waited = 0.0  #: seconds that consumers of ``stream`` waited
        self._places = [self._organ_voxels(v.label) for v in self.volumes]
        self._augment: Any = None
        if augment:
            from .augment import Augmentation  # MONAI takes seconds to import

            self._augment = Augmentation(int(generator.integers(2**31)), view, float(augment))

    def batch(self, size: int, scans: Sequence[int] | None = None) -> Batch:
        """Return ``size`` patches from the scans with the given indices (all by default), taken in turn and in random order."""
        choice = list(range(len(self.volumes))) if scans is None else list(scans)
        turns = take_turns(choice, size, self.generator)
        return _stack([self._patch(i) for i in turns], [self.volumes[i].missing for i in turns])

    def stream(self, requests: Sequence[tuple[int, Sequence[int]]]) -> Iterator[Batch]:
        """Yield one batch for each request (size, scan indices); one background thread makes them ahead."""
        source = Prefetcher((self.batch(size, scans) for size, scans in requests), depth=2)
        try:
            yield from source
        finally:
            source.close()
            self.waited += source.waited

    def views(self, scan: int) -> Batch:
        """Return fixed, unaugmented views of a scan: all of it if it fits, else views of every organ and a random one.

        The first call draws them; later calls return the same views.
        """
        if scan not in self._views:
            cuts = [self._cut(scan, start) for start in self._overview(scan)]
            self._views[scan] = _stack(cuts, [self.volumes[scan].missing] * len(cuts))
        return self._views[scan]

    def _overview(self, scan: int) -> list[Sequence[int]]:
        """Return the starts of the views: one around each organ that earlier views show less than half of, and a random one."""
        free = np.subtract(self.volumes[scan].label.shape, self.view)
        if not free.any():
            return [(0, 0, 0)]
        starts: list[Sequence[int]] = []
        for voxels in self._places[scan]:
            shown = (np.all((voxels >= start) & (voxels < np.add(start, self.view)), axis=1).mean() for start in starts)
            if not any(share >= 0.5 for share in shown):
                starts.append(self._start(scan, voxels.mean(0)))
        return [*starts, [int(i) for i in self.generator.integers(0, free + 1)]]

    def _patch(self, scan: int) -> dict[str, torch.Tensor]:
        volume = self.volumes[scan]
        if self.generator.random() < self.foreground:
            start = self._around(scan)
        else:
            start = tuple(int(self.generator.integers(0, n - v + 1)) for n, v in zip(volume.label.shape, self.view, strict=True))
        patch = self._cut(scan, start)
        return self._augment(patch) if self._augment else patch

    def _around(self, scan: int) -> Sequence[int]:
        volume, places = self.volumes[scan], self._places[scan]
        if not places:
            return [int(self.generator.integers(0, n - v + 1)) for n, v in zip(volume.label.shape, self.view, strict=True)]
        organ = places[int(self.generator.integers(len(places)))]
        center = organ[int(self.generator.integers(len(organ)))]
        jitter = [int(self.generator.integers(-(v // 4), v // 4 + 1)) for v in self.view]
        return self._start(scan, np.add(center, jitter))

    def _start(self, scan: int, center: np.ndarray) -> Sequence[int]:
        """Return the first voxel of a view around ``center`` (3,), shifted to lie inside the scan."""
        shape = self.volumes[scan].label.shape
        return [int(np.clip(c - v // 2, 0, n - v)) for c, v, n in zip(center, self.view, shape, strict=True)]

    def _cut(self, scan: int, start: Sequence[int]) -> dict[str, torch.Tensor]:
        volume, (before, shape) = self.volumes[scan], self._frames[scan]
        where = tuple(slice(s, s + v) for s, v in zip(start, self.view, strict=True))
        axes = [
            (torch.arange(s - b, s - b + v, dtype=torch.float32) + 0.5) * (2.0 / n) - 1.0
            for s, v, b, n in zip(start, self.view, before, shape, strict=True)
        ]
        coords = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return {"image": volume.image[(slice(None), *where)], "coords": coords, "label": volume.label[where][None].float()}

    def _organ_voxels(self, label: torch.Tensor, limit: int = 2000) -> list[np.ndarray]:
        """Return up to ``limit`` voxel positions (n, 3) of each organ in the map."""
        found = []
        for organ in torch.unique(label).tolist():
            if organ not in (0, IGNORED):
                voxels = torch.nonzero(label == organ).numpy()
                keep = self.generator.permutation(len(voxels))[:limit]
                found.append(voxels[keep])
        return found


def _pad_to(volume: Volume, view: Triple) -> tuple[Volume, list[int]]:
    """Return the volume padded to ``view`` by repeating its edges, and the number of voxels added before it along each axis."""
    missing = [max(0, v - n) for v, n in zip(view, volume.label.shape, strict=True)]
    if not any(missing):
        return volume, [0, 0, 0]
    pad: list[int] = []
    for m in reversed(missing):
        pad += [m // 2, m - m // 2]
    image = F.pad(volume.image[None], pad, mode="replicate")[0]
    label = F.pad(volume.label[None, None].float(), pad, mode="replicate")[0, 0].to(torch.uint8)
    return replace(volume, image=image, label=label), [m // 2 for m in missing]


def _stack(patches: Sequence[dict[str, torch.Tensor]], missing: Sequence[tuple[int, ...]]) -> Batch:
    return Batch(
        torch.stack([p["image"] for p in patches]),
        torch.stack([p["coords"] for p in patches]),
        torch.stack([p["label"][0].long() for p in patches]),
        tuple(missing) if any(missing) else (),
    )
