"""Windows over whole scans, and their mean over several looks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from metanas_med.data.plan import Intensity, Plan
from metanas_med.engine import predict
from metanas_med.engine.state import build_network
from metanas_med.learner import choose_runtime


def test_small_windows_are_taken_together_to_the_same_scores(tiny_settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net = build_network(tiny_settings().space, 0).eval()
    net.start_task(1, 2)
    view = (12, 12, 8)
    plan = Plan((0, 1, 2), (1.0, 1.0, 1.0), view, ((2, 2, 2),) * 2, (Intensity("robust"),))
    image = torch.randn(1, 26, 20, 13, generator=torch.Generator().manual_seed(0))
    runtime, seen = choose_runtime("cpu", "float32"), []

    def scores(windows: int, voxels: int) -> torch.Tensor:
        monkeypatch.setattr(predict, "WINDOWS", windows)
        monkeypatch.setattr(predict, "VOXELS", voxels)
        sizes: list[int] = []
        handle = net.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[0]))
        found = predict.predict_scores(net, image, plan, runtime)
        handle.remove()
        seen.append(max(sizes))
        return found

    alone, together, large = scores(1, 10**6), scores(4, 10**6), scores(4, 2 * 12 * 12 * 8 + 1)
    assert seen == [1, 4, 2]  # windows that are large are taken one by one again
    assert alone.shape == (3, 26, 20, 13)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(large, alone, rtol=1e-4, atol=1e-5)


def test_an_axis_that_is_little_longer_than_the_view_is_taken_whole(tiny_settings: Any) -> None:
    net = build_network(tiny_settings().space, 0).eval()
    net.start_task(1, 2)
    plan = Plan((0, 1, 2), (1.0, 1.0, 1.0), (10, 10, 10), ((2, 2, 2),) * 2, (Intensity("robust"),))
    seen: set[tuple[int, ...]] = set()
    net.register_forward_pre_hook(lambda _, inputs: seen.add(tuple(inputs[0].shape[2:])))
    predict.predict_scores(net, torch.randn(1, 13, 14, 7), plan, choose_runtime("cpu", "float32"))
    assert seen == {(13, 10, 7)}  # by 1.3 at most; a shorter axis as it is


def test_organs_that_a_plan_knows_in_one_piece_lose_small_pieces(tiny_settings: Any) -> None:
    net = build_network(tiny_settings().space, 0).eval()
    net.start_task(1, 2)
    torch.nn.init.normal_(net.task["rows"], generator=torch.Generator().manual_seed(1))
    plan = Plan((2, 0, 1), (1.0, 1.0, 1.0), (12, 12, 8), ((2, 2, 2),) * 2, (Intensity("robust"),))
    image = torch.randn(1, 20, 16, 12, generator=torch.Generator().manual_seed(0))
    runtime, shape = choose_runtime("cpu", "float32"), (16, 12, 20)

    def pieces(pieces_of: tuple[bool, ...], organ: int) -> list[int]:
        label = predict.predict_labels(net, image, replace(plan, in_one_piece=pieces_of), shape, runtime)
        assert label.shape == shape
        numbered: Any = ndimage.label(label == organ, np.ones((3, 3, 3)))
        return sorted(np.bincount(numbered[0].ravel())[1:])

    every = [pieces((), k) for k in (1, 2)]
    large = [size for size in every[0] if 4 * size >= every[0][-1]]
    assert len(large) < len(every[0])
    assert pieces((True, False), 1) == large and pieces((True, False), 2) == every[1]


class Pointwise(torch.nn.Module):
    """Scores of a voxel by what ``of`` makes of its image (B, C, X, Y, Z) and coordinates (B, 3, X, Y, Z), whatever lies around it."""

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.of = of

    def forward(self, image: torch.Tensor, coords: torch.Tensor, strides: Any) -> torch.Tensor:
        logits = self.of(image, coords)
        return torch.cat([torch.zeros_like(logits), logits], 1)


#: thick slices whose planes are as anisotropic as canonical axes can make them
ANISOTROPIC = Plan((0, 1, 2), (0.7, 1.3, 3.0), (24, 18, 6), ((2, 2, 1),), (Intensity("robust"),))


def test_looks_turn_millimetres_and_come_back() -> None:
    shape = (24, 18, 6)
    size = torch.tensor([n * s for n, s in zip(shape, ANISOTROPIC.spacing, strict=True)])
    angles = []
    for turn, scale in predict.LOOKS:
        there, back = predict.look_grids(turn, scale, shape, ANISOTROPIC.spacing)
        place = there[0].flip(-1) * size / 2  # millimetres from the middle, x first
        step = place[1, 0, 0] - place[0, 0, 0], place[0, 1, 0] - place[0, 0, 0], place[0, 0, 1] - place[0, 0, 0]
        lengths = [float(s.norm()) for s in step]
        assert np.allclose(lengths, [0.7 / scale, 1.3 / scale, 3.0], atol=1e-5)  # an enlarged look steps less; slices stay
        assert abs(float(step[0] @ step[1])) < 1e-5  # no shear: as tall as wide is as tall as wide
        assert float(torch.linalg.det(torch.stack(step))) > 0  # nor a mirror: sides stay sides
        angles.append(float(torch.atan2(step[0][1], step[0][0])))
        # the way back from where the look saw a voxel is that voxel
        plain = F.affine_grid(torch.eye(3, 4)[None], [1, 1, *shape], align_corners=False)
        again = F.grid_sample(back.permute(0, 4, 1, 2, 3), there, align_corners=False).permute(0, 2, 3, 4, 1)
        inside = (there[0].abs() <= 0.9).all(-1)
        assert int(inside.sum()) > 500 and float((again - plain)[0][inside].abs().max()) < 1e-5
    assert np.allclose(angles, [turn for turn, _ in predict.LOOKS], atol=1e-6)


def test_the_mean_over_looks_is_that_of_an_independent_implementation() -> None:
    runtime, generator = choose_runtime("cpu", "float32"), torch.Generator().manual_seed(3)
    image = torch.randn(1, 24, 18, 6, generator=generator)
    # a score that looks around: it differs from look to look
    blur = torch.randn(1, 1, 3, 3, 3, generator=generator)
    net: Any = Pointwise(lambda image, coords: F.conv3d(image, blur, padding=1) + coords[:, :1])
    found = predict.predict_scores(net, image, ANISOTROPIC, runtime, tta=True)
    total, count = predict.predict_scores(net, image, ANISOTROPIC, runtime).numpy().astype(float), np.ones(image.shape[1:])
    shape, spacing = np.array(image.shape[1:]), np.array(ANISOTROPIC.spacing)
    middle, plain = (shape - 1) / 2, predict.coordinates(image.shape[1:]).numpy()

    def resampled(volume: np.ndarray, matrix: np.ndarray, mode: str) -> np.ndarray:
        voxels = np.diag(1 / spacing) @ matrix @ np.diag(spacing)  # of millimetres
        shift: Any = middle - voxels @ middle
        return ndimage.affine_transform(volume, voxels, shift, order=1, mode=mode)

    for turn, scale in predict.LOOKS:
        c, s = np.cos(turn) / scale, np.sin(turn) / scale
        there = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        seen = np.stack([resampled(v, there, "nearest") for v in [*image.numpy(), *plain]])
        inputs = torch.from_numpy(seen).float()[None]
        scores = net(inputs[:, :1], inputs[:, 1:], None).softmax(1)[0].numpy()
        back = np.linalg.inv(there)
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")).reshape(3, -1)
        voxels = np.diag(1 / spacing) @ back @ np.diag(spacing)
        at = voxels @ grid + (middle - voxels @ middle)[:, None]
        shown = ((at >= -1e-5) & (at <= shape[:, None] - 1 + 1e-5)).all(0).reshape(shape)
        total += np.stack([resampled(v, back, "nearest") for v in scores]) * shown
        count += shown
    assert count.min() < 5 == count.max()
    np.testing.assert_allclose(found.numpy(), total / count, atol=2e-5)
    assert np.allclose(found.sum(0), 1.0, atol=1e-5)


def test_looks_say_where_a_voxel_lies_in_the_scan() -> None:
    # every look at a network of positions alone gives the same, because coordinates turn with the scan
    net: Any = Pointwise(lambda image, coords: coords[:, :1] - 0.5 * coords[:, 1:2] + 0.2)
    image = torch.randn(1, 40, 40, 6, generator=torch.Generator().manual_seed(0))
    plan, runtime = replace(ANISOTROPIC, view=(40, 40, 6), spacing=(1.0, 1.0, 3.0)), choose_runtime("cpu", "float32")
    plain, mean = (predict.predict_scores(net, image, plan, runtime, tta=tta) for tta in (False, True))
    inner = (slice(None), slice(8, 32), slice(8, 32))
    torch.testing.assert_close(mean[inner], plain[inner], rtol=0, atol=1e-3)
    assert float((mean - plain).abs().max()) < 0.1  # of looks' borders, which repeat the scan's last voxels
