"""Windows over whole scans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from metanas_med.data.plan import Intensity, Plan
from metanas_med.engine import predict
from metanas_med.engine.run_task import build_network
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
