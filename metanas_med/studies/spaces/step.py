"""The price of a search step: processor seconds and peak memory, each network in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from ...learner import choose_runtime
from ...space import derive, random_genotype
from ..bench.live import LiveBytes
from ..bench.process import in_fresh_process
from .cells import ONE_PATH, Cell
from .learners import plain_settings, timed_settings
from .settings import SpacesSettings
from .shared import Data, fresh_network, learn, task_of

#: random networks whose largest is the price of one path
PATHS = 8


def measure_step(settings: SpacesSettings, cell: Cell) -> dict[str, Any]:
    """Return a cell's row: median processor seconds of a step, and the most MB of tensors that a step adds.

    Those MB are activations, gradients and temporary maps; ``held_mb`` are weights and moments, which stay between steps. The price
    of one path is that of the largest of eight random networks of the space.
    """
    numbers = range(PATHS) if cell.what == ONE_PATH else (0,)
    found = [in_fresh_process(_steps, settings, cell, number) for number in numbers]
    seconds, size, held = (max(values) for values in zip(*found, strict=True))
    row = {"step_seconds": round(seconds, 5), "step_mb": round(size / 1e6, 3), "held_mb": round(held / 1e6, 3)}
    return {"row": row | {"steps": settings.timed_steps}}


def _steps(settings: SpacesSettings, cell: Cell, number: int) -> tuple[float, int, int]:
    """Return the median processor seconds of a step after the first, the bytes that steps add at most, and those that stay."""
    marks: list[float] = []
    _run(settings, cell, number, lambda: marks.append(time.process_time()), None)
    # again with counted bytes, which takes time
    live, steps = LiveBytes(), list[tuple[int, int]]()
    size = _run(settings, cell, number, lambda: steps.append(live.mark()), live)
    # a mark has what stays after a step and the peak within it
    added = max(peak - before for (before, _), (_, peak) in zip(steps[:-1], steps[1:], strict=True))
    return float(np.median(np.diff(marks))), added, steps[-1][0] + size


def _run(settings: SpacesSettings, cell: Cell, number: int, mark: Callable[[], Any], live: LiveBytes | None) -> int:
    """Run the steps of a cell with a ``mark`` after each, and return the bytes of the network's parameters."""
    runtime, data = choose_runtime("cpu"), Data.of(settings)
    space = settings.plain() if cell.what == "plain" else settings.space(cell.space, cell.edge)
    episode = data.episode(settings, space.levels)
    net = fresh_network(space, episode, settings, 0, runtime)
    learner = plain_settings(settings) if cell.what in ("plain", ONE_PATH) else timed_settings(settings, cell.what)
    if cell.what == ONE_PATH:
        net = net.with_body(derive(net.body, random_genotype(space, torch.Generator().manual_seed(number))))
    task = task_of(settings, episode, 0, 7)
    parameters = list(net.parameters())
    if live is not None:
        live.ignore(parameters)
    with live or nullcontext():
        learn(learner, net, task, 0, 7, runtime, lambda step, loss: mark())
    return sum(p.numel() * p.element_size() for p in parameters)
