"""Shortcuts: a small network that sees only borders learns nothing from scans that offer nothing but a shortcut.

The scans are isotropic noise, so no legitimate cue shows how a tile was rotated, where a block belongs or what is hidden.
Whatever a network learns from them is a shortcut. Each test also removes the guard; then the same network is well above
chance. Chance is one over the number of classes for cells, because classes are equally frequent, and the share of the most
frequent bin for voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, gaussian_filter
from torch import Tensor, nn

from metanas_med.data.patches import Volume
from metanas_med.pretext import Frame, Scan, base, build_pretext, colorization, genesis
from metanas_med.pretext.jigsaw import Jigsaw
from metanas_med.pretext.settings import PretextSettings

SETTINGS = PretextSettings(classes=4)
POINTS = 0.05


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(shape: tuple[int, ...], seed: int, sigma: float | tuple[float, ...] = 0.7) -> np.ndarray:
    """Return isotropic noise (1, X, Y, Z) with mean about zero (anisotropic if ``sigma`` differs between axes)."""
    field = gaussian_filter(rng(seed).standard_normal([n + 8 if n > 1 else n for n in shape]), sigma)
    inside = tuple(slice(4, 4 + n) if n > 1 else slice(None) for n in shape)  # a filter changes the spread near its ends
    return (field[inside] / field.std())[None].astype(np.float32)


def frame_of(shape: tuple[int, int, int], view: tuple[int, int, int], native: float = 1.0) -> Frame:
    return Frame(shape, view, (1.0, 1.0, 1.0), ((1.0, 1.0, native),), 1)


def all_content(name: str, image: np.ndarray) -> Scan:
    return Scan(name, image, np.ones(image.shape[1:], dtype=bool))


class BorderNet(nn.Module):
    """Two convolutions, averaged over parts of each cell, and a small network that predicts its class."""

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
        """Return logits (B, cells, classes); with ``together``, all cells contribute to each prediction."""
        number = len(image)
        pooled = nn.functional.adaptive_avg_pool3d(self.convs(image), self.pieces)
        (gx, gy, gz), (px, py, pz) = self.grid, (p // g for p, g in zip(self.pieces, self.grid, strict=True))
        if self.together:
            return self.head(pooled.flatten(1)).view(number, gx * gy * gz, -1)
        parts = pooled.view(number, 8, gx, px, gy, py, gz, pz).permute(0, 2, 4, 6, 1, 3, 5, 7)
        return self.head(parts.reshape(number, gx * gy * gz, -1))


def border_of(volume: Volume, cells: list[Any], side: tuple[int, ...], width: int) -> Tensor:
    """Return the volume (2, X, Y, Z) without the inside of each cell's tile; the second channel is the mask of the rest."""
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
    """Return the accuracy on cells of 300 new volumes, for a network trained on the borders of other volumes."""
    images, labels, grid = [], [], (2, 2, 2)
    for number in range(train + 300):
        part, volume, side = make(number)
        images.append(border_of(volume, part.cells, side, width))
        labels.append(torch.stack([volume.label[tuple(c.start for c in cell)] for cell in part.cells]))
        grid = part.grid
    x, y = torch.stack(images), torch.stack(labels).long()
    net = fit(
        lambda: BorderNet(grid, num_classes, together),
        lambda net, some: nn.functional.cross_entropy(net(x[some]).flatten(0, 1), y[some].flatten()),
        train,
        steps,
    )
    with torch.no_grad():
        return float((net(x[train:]).argmax(2) == y[train:]).float().mean())


def fit(
    build: Callable[[], nn.Module], loss: Callable[[nn.Module, Tensor], Tensor], train: int, steps: int, batch: int = 32
) -> nn.Module:
    """Return a network after ``steps`` on ``loss(network, some)``, where ``some`` are ``batch`` of ``train`` indices."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=0.02)
    order = rng(5)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        value = loss(net, torch.from_numpy(order.integers(0, train, batch)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return net


def rotation(
    image: Callable[[int], np.ndarray], shape: tuple[int, int, int], view: tuple[int, int, int], native: float = 1.0
) -> Any:
    """Return a function that makes volumes of rotation; all share the rotations, so that their classes can be learned."""
    frame = frame_of(shape, view, native)
    task: Any = build_pretext("rotation", SETTINGS, frame, rng(4))
    return lambda number: (task.mosaic, task.volume(all_content("s", image(number)), rng(number, 9)), task.mosaic.side)


def framed(number: int) -> np.ndarray:
    """Return noise with traces at the faces, as scanners and resampling leave them: bright at one face, dark at the opposite."""
    image = noise((10, 10, 10), number)
    image[:, 0], image[:, -1] = 2.0, -2.0
    image[:, :, :, 0] = 4.0
    return image


def streaked(number: int) -> np.ndarray:
    """Return noise that is correlated only along the last axis, as after resampling from thick slices."""
    return noise((14, 14, 14), number, (0.3, 0.3, 1.5))


def test_rotation_cannot_be_predicted_from_the_scans_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    found = accuracy(rotation(framed, (10, 10, 10), (12, 12, 12)), 4, together=False)
    monkeypatch.setattr(base, "MARGIN", 0)
    leaky = accuracy(rotation(framed, (10, 10, 10), (12, 12, 12)), 4, together=False)
    assert abs(found - 0.25) < POINTS and leaky > 0.25 + 2 * POINTS, (found, leaky)


def test_rotation_cannot_be_predicted_from_traces_of_resampling() -> None:
    found = accuracy(rotation(streaked, (10, 10, 10), (12, 12, 12), native=3.0), 4, together=False)
    leaky = accuracy(rotation(streaked, (10, 10, 10), (12, 12, 12), native=1.0), 4, together=False)
    assert abs(found - 0.25) < POINTS and leaky > 0.25 + 2 * POINTS, (found, leaky)


def ramp(number: int) -> np.ndarray:
    """Return noise with a gradient of brightness, as from a receiver coil, the same in all scans."""
    image = noise((14, 14, 14), number)
    return image + np.linspace(-2, 2, 14, dtype=np.float32)[:, None, None] + np.linspace(-1, 1, 14, dtype=np.float32)[:, None]


def smooth_slice(number: int) -> np.ndarray:
    return noise((20, 20, 1), number, (1.2, 1.2, 0))


def jigsaw(image: Callable[[int], np.ndarray], shape: tuple[int, int, int], **changes: Any) -> Any:
    """Return a function that makes volumes of jigsaw, all with the same permutations."""
    task = Jigsaw(SETTINGS, frame_of(shape, shape), rng(4), **changes)
    return lambda number: (task, task.volume(all_content("s", image(number)), rng(number, 9)), task.tile)


def test_jigsaw_cannot_be_solved_by_brightness() -> None:
    shape = (14, 14, 14)
    found = accuracy(jigsaw(ramp, shape), 8, together=True)
    leaky = accuracy(jigsaw(ramp, shape, normalise=False), 8, together=True)
    assert abs(found - 1 / 8) < POINTS and leaky > 1 / 8 + 2 * POINTS, (found, leaky)


def test_jigsaw_cannot_be_solved_by_structures_across_a_cut() -> None:
    found = accuracy(jigsaw(smooth_slice, (20, 20, 1)), 4, together=True, steps=400)
    leaky = accuracy(jigsaw(smooth_slice, (20, 20, 1), gap=0.0), 4, together=True, steps=400)
    assert abs(found - 1 / 4) < POINTS and leaky > 1 / 4 + 2 * POINTS, (found, leaky)


class InOrder(np.random.Generator):
    """Does not permute: class k is in cell k."""

    def permutation(self, x: Any, axis: int = 0) -> Any:
        return np.arange(x)


def test_random_labels_cannot_be_predicted() -> None:
    """Only the place of a class could be learned, and that is random, too."""
    frame = frame_of((10, 10, 10), (12, 12, 12))
    task: Any = build_pretext("random-labels", SETTINGS, frame, rng(4))

    def predicted(draws: Callable[[int], np.random.Generator], **less: int) -> float:
        def make(number: int) -> tuple[Any, Volume, tuple[int, ...]]:
            return task.mosaic, task.volume(all_content("s", ramp(number)), draws(number)), task.mosaic.side

        return accuracy(make, 4, together=True, **less)

    found = predicted(lambda n: rng(n, 9))
    leaky = predicted(lambda n: InOrder(np.random.PCG64([n, 9])), steps=30, train=100)
    assert abs(found - 0.25) < POINTS and leaky > 0.25 + 2 * POINTS, (found, leaky)


# --- restoring: the bin of a voxel ------------------------------------------------------------------------------------------

#: an image (C, X, Y, Z) of which only a border is left, its bins (X, Y, Z) and the mask (X, Y, Z) of the voxels to predict
MakeVoxels = Callable[[int], tuple[Tensor, Tensor, Tensor]]


def bins_predicted(make: MakeVoxels, steps: int = 60, train: int = 192) -> tuple[float, float]:
    """Return a network's accuracy on the bins of voxels of 96 new volumes, and the share of the most frequent bin."""
    image, label, asked = (torch.stack(parts) for parts in zip(*(make(n) for n in range(train + 96)), strict=True))
    depth = min(3, image.shape[-1])

    def build() -> nn.Module:
        convs = [nn.Conv3d(cin, 12, (3, 3, depth), padding="same") for cin in (image.shape[1], 12)]
        ends = [nn.Conv3d(12, 24, 1), nn.LeakyReLU(), nn.Conv3d(24, SETTINGS.bins, 1)]
        return nn.Sequential(convs[0], nn.LeakyReLU(), convs[1], nn.LeakyReLU(), *ends)

    def scores(net: nn.Module, some: Any) -> tuple[Tensor, Tensor]:
        return net(image[some]).movedim(1, -1)[asked[some]], label[some][asked[some]].long() - 1

    net = fit(build, lambda net, some: nn.functional.cross_entropy(*scores(net, some)), train, steps, batch=16)
    with torch.no_grad():
        found, truth = scores(net, slice(train, None))
    return float((found.argmax(1) == truth).float().mean()), float(torch.bincount(truth).max() / len(truth))


def hidden_in(name: str, flat: bool) -> MakeVoxels:
    """Return a function that makes slabs of noise with nearly equal slices, of which only hidden voxels and a shell are left.

    The voxels to predict are the hidden ones next to that shell. Within a slice voxels are independent, so a voxel can only
    be predicted from the slice above or below. ``flat`` is the guard: blocks extend through all slices.
    """
    task: Any = build_pretext(name, SETTINGS, frame_of((12, 12, 4), (10, 10, 4)), rng(4))
    assert task.flat
    task.flat = flat

    def make(number: int) -> tuple[Tensor, Tensor, Tensor]:
        slab = rng(number).standard_normal((1, 12, 12, 1)) + 0.1 * rng(number, 1).standard_normal((1, 12, 12, 4))
        scan = all_content("s", slab.astype(np.float32))
        volume = task.volume(scan, rng(number, 9))
        hidden = volume.image[0].numpy() != task.crop(scan, rng(number, 9))[0][0]  # the crop is drawn first
        near, behind = (binary_dilation(part, np.ones((3, 3, 3))) for part in (hidden, ~hidden))
        image, seen, within = (torch.from_numpy(part) for part in (volume.image[0].numpy() * near, near, hidden))
        return torch.stack([image, seen, within]), volume.label, within & torch.from_numpy(behind)

    return make


def test_voxels_hidden_by_inpainting_cannot_be_predicted_from_the_border() -> None:
    found, chance = bins_predicted(hidden_in("inpainting", flat=True))
    leaky, _ = bins_predicted(hidden_in("inpainting", flat=False))
    assert abs(found - chance) < POINTS and leaky > chance + 2 * POINTS, (found, leaky, chance)


def test_voxels_hidden_by_genesis_cannot_be_predicted_from_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without curve and shuffling, which hide more. The task itself is to predict visible voxels from their intensities."""
    for part, probability in {"CURVE": 0.0, "SHUFFLE": 0.0, "PAINT": 1.0}.items():
        monkeypatch.setattr(genesis, part, probability)
    found, chance = bins_predicted(hidden_in("genesis", flat=True))
    leaky, _ = bins_predicted(hidden_in("genesis", flat=False))
    assert abs(found - chance) < POINTS and leaky > chance + 2 * POINTS, (found, leaky, chance)


def rising_curve(image: np.ndarray, content: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the image after a monotone curve: brighter voxels stay brighter."""
    curved = np.interp(image, np.linspace(-2.6, 2.6, 6), np.sort(generator.normal(size=6))).astype(np.float32)
    return (curved - curved.mean()) / curved.std()


def test_colorization_cannot_be_predicted_from_faces_and_air(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bins of content are predicted from the outline of a slice of noise with air on one side.

    The surroundings of a voxel do not depend on its bin, so the only cues are its own intensity and air, which shows where
    the curve starts. Non-monotone curves leave little information: an extreme intensity is more likely at an end of the
    range. The best guess from the intensity alone gains about 3 percentage points, measured over 3000 curves.
    """
    task: Any = build_pretext("colorization", SETTINGS, frame_of((22, 22, 1), (20, 20, 1)), rng(4))
    faces = torch.ones(20, 20, 1, dtype=torch.bool)
    faces[1:-1, 1:-1] = False

    def make(number: int) -> tuple[Tensor, Tensor, Tensor]:
        image = rng(number).standard_normal((1, 22, 22, 1)).astype(np.float32)
        image[:, :, :5] = -4 + 0.05 * image[:, :, :5]
        volume = task.volume(Scan.of("s", image), rng(number, 9))
        return torch.stack([volume.image[0] * faces, faces]), volume.label, faces & (volume.label > 0)

    found, chance = bins_predicted(make)
    monkeypatch.setattr(colorization, "folding_curve", rising_curve)
    leaky, _ = bins_predicted(make)
    assert abs(found - chance) < POINTS and leaky > chance + 2 * POINTS, (found, leaky, chance)
