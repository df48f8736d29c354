"""Windows over whole scans."""

from __future__ import annotations

from typing import Any

import pytest
import torch

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
