"""Short cuts: a small network that sees only borders learns nothing where nothing but a short cut could teach it.

The scans here are noise without a direction, so no legitimate cue tells how a tile was turned or where a block belongs: what a network
learns from them is a short cut. Each test also leaves the guard out, and then the same network is well above chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from metanas_med.config import PretextSettings
from metanas_med.data.patches import Volume
from metanas_med.pretext import Frame, Scan, base, build_pretext
from metanas_med.pretext.jigsaw import Jigsaw

SETTINGS = PretextSettings(classes=4)
POINTS = 0.05


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(shape: tuple[int, ...], seed: int, sigma: float | tuple[float, ...] = 0.7) -> np.ndarray:
    """Noise (1, X, Y, Z) without a direction (unless ``sigma`` differs), about zero."""
    field = gaussian_filter(rng(seed).standard_normal([n + 8 if n > 1 else n for n in shape]), sigma)
    inside = tuple(slice(4, 4 + n) if n > 1 else slice(None) for n in shape)  # a filter changes the spread near its ends
    return (field[inside] / field.std())[None].astype(np.float32)


def frame_of(shape: tuple[int, int, int], view: tuple[int, int, int], native: float = 1.0) -> Frame:
    return Frame(shape, view, (1.0, 1.0, 1.0), ((1.0, 1.0, native),), 1)


def all_content(name: str, image: np.ndarray) -> Scan:
    return Scan(name, image, np.ones(image.shape[1:], dtype=bool))


class BorderNet(nn.Module):
    """Two convolutions whose responses are averaged over pieces of each cell, and a small network from there to its class."""

    def __init__(self, grid: tuple[int, ...], num_classes: int, together: bool) -> None:
        super().__init__()
        self.grid, self.together = grid, together
        depth = 1 if grid[2] == 1 else 3
        self.convs = nn.Sequential(
            nn.Conv3d(2, 8, (3, 3, depth), padding="same"), nn.LeakyReLU(), nn.Conv3d(8, 8, (3, 3, depth)), nn.LeakyReLU()
        )
        self.pieces: tuple[int, int, int] = (2 * grid[0], 2 * grid[1], 1 if grid[2] == 1 else 4)
        cells, inputs = int(np.prod(grid)), 8 * int(np.prod(self.pieces))
        num_in, num_out = (inputs, num_classes * cells) if together else (inputs // cells, num_classes)
        self.head = nn.Sequential(nn.Linear(num_in, 48), nn.LeakyReLU(), nn.Linear(48, num_out))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, cells, classes); ``together``: a cell is judged from all of them."""
        number = len(image)
        pooled = nn.functional.adaptive_avg_pool3d(self.convs(image), self.pieces)
        (gx, gy, gz), (px, py, pz) = self.grid, (p // g for p, g in zip(self.pieces, self.grid, strict=True))
        if self.together:
            return self.head(pooled.flatten(1)).view(number, gx * gy * gz, -1)
        parts = pooled.view(number, 8, gx, px, gy, py, gz, pz).permute(0, 2, 4, 6, 1, 3, 5, 7)
        return self.head(parts.reshape(number, gx * gy * gz, -1))


def border_of(volume: Volume, cells: list[Any], side: tuple[int, ...], width: int) -> Tensor:
    """Return the volume (2, X, Y, Z) with the inside of each cell's tile cut out; the second channel says where."""
    seen = torch.ones(volume.label.shape)
    for cell in cells:
        flat = side[2] == volume.label.shape[2]
        seen[
            tuple(
                c if axis == 2 and flat else slice(c.start + width, c.start + side[axis] - width) for axis, c in enumerate(cell)
            )
        ] = 0
    assert 0 < float(seen.mean()) < 1
    return torch.stack([volume.image[0] * seen, seen])


Make = Callable[[int], tuple[Any, Volume, tuple[int, ...]]]


def accuracy(make: Make, num_classes: int, together: bool, steps: int = 100, width: int = 1, train: int = 320) -> float:
    """Return the share of cells of 300 fresh volumes whose class a network tells that was trained on the borders of others."""
    images, labels, grid = [], [], (2, 2, 2)
    for number in range(train + 300):
        part, volume, side = make(number)
        images.append(border_of(volume, part.cells, side, width))
        labels.append(torch.stack([volume.label[tuple(c.start for c in cell)] for cell in part.cells]))
        grid = part.grid
    x, y = torch.stack(images), torch.stack(labels).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = BorderNet(grid, num_classes, together)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=0.02)
    order = rng(5)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        some = torch.from_numpy(order.integers(0, train, 32))
        loss = nn.functional.cross_entropy(net(x[some]).flatten(0, 1), y[some].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float((net(x[train:]).argmax(2) == y[train:]).float().mean())


def rotation(
    image: Callable[[int], np.ndarray], shape: tuple[int, int, int], view: tuple[int, int, int], native: float = 1.0
) -> Any:
    """A maker of rotation's volumes; the turns are the same in all, so that their classes can be learned."""
    frame = frame_of(shape, view, native)
    task: Any = build_pretext("rotation", SETTINGS, frame, rng(4))
    return lambda number: (task.mosaic, task.volume(all_content("s", image(number)), rng(number, 9)), task.mosaic.side)


def framed(number: int) -> np.ndarray:
    """Noise whose outermost voxels are what a scanner and resampling leave there: bright at one face, dark at the opposite one."""
    image = noise((10, 10, 10), number)
    image[:, 0], image[:, -1] = 2.0, -2.0
    image[:, :, :, 0] = 4.0
    return image


def streaked(number: int) -> np.ndarray:
    """Noise correlated along the last axis alone, as resampling from thick slices leaves it."""
    return noise((14, 14, 14), number, (0.3, 0.3, 1.5))


def test_rotation_cannot_be_told_from_the_scans_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    found = accuracy(rotation(framed, (10, 10, 10), (12, 12, 12)), 4, together=False)
    monkeypatch.setattr(base, "MARGIN", 0)
    leaky = accuracy(rotation(framed, (10, 10, 10), (12, 12, 12)), 4, together=False)
    assert abs(found - 0.25) < POINTS and leaky > 0.25 + 2 * POINTS, (found, leaky)


def test_rotation_cannot_be_told_from_traces_of_resampling() -> None:
    found = accuracy(rotation(streaked, (10, 10, 10), (12, 12, 12), native=3.0), 4, together=False)
    leaky = accuracy(rotation(streaked, (10, 10, 10), (12, 12, 12), native=1.0), 4, together=False)
    assert abs(found - 0.25) < POINTS and leaky > 0.25 + 2 * POINTS, (found, leaky)


def ramp(number: int) -> np.ndarray:
    """Noise under a slope of brightness, as a receiver coil leaves it, the same in all scans."""
    image = noise((14, 14, 14), number)
    return image + np.linspace(-2, 2, 14, dtype=np.float32)[:, None, None] + np.linspace(-1, 1, 14, dtype=np.float32)[:, None]


def smooth_slice(number: int) -> np.ndarray:
    return noise((20, 20, 1), number, (1.2, 1.2, 0))


def jigsaw(image: Callable[[int], np.ndarray], shape: tuple[int, int, int], **changes: Any) -> Any:
    """A maker of jigsaw's volumes; one set of permutations for all."""
    task = Jigsaw(SETTINGS, frame_of(shape, shape), rng(4), **changes)
    return lambda number: (task, task.volume(all_content("s", image(number)), rng(number, 9)), task.tile)


def test_jigsaw_cannot_be_told_from_brightness() -> None:
    shape = (14, 14, 14)
    found = accuracy(jigsaw(ramp, shape), 8, together=True)
    leaky = accuracy(jigsaw(ramp, shape, normalise=False), 8, together=True)
    assert abs(found - 1 / 8) < POINTS and leaky > 1 / 8 + 2 * POINTS, (found, leaky)


def test_jigsaw_cannot_be_told_from_what_continues_over_a_cut() -> None:
    found = accuracy(jigsaw(smooth_slice, (20, 20, 1)), 4, together=True, steps=400)
    leaky = accuracy(jigsaw(smooth_slice, (20, 20, 1), gap=0.0), 4, together=True, steps=400)
    assert abs(found - 1 / 4) < POINTS and leaky > 1 / 4 + 2 * POINTS, (found, leaky)


def test_random_labels_cannot_be_told_at_all() -> None:
    frame = frame_of((10, 10, 10), (12, 12, 12))
    task: Any = build_pretext("random-labels", SETTINGS, frame, rng(4))
    found = accuracy(
        lambda n: (task.mosaic, task.volume(all_content("s", ramp(n)), rng(n, 9)), task.mosaic.side), 4, together=True
    )
    assert abs(found - 0.25) < POINTS
