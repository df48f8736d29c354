"""What scores look at: a network with task parameters of its own, its activations, and crops of the support."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...ignored import IGNORED
from ...learner import Context, NonFiniteLossError, Task
from ...space.blocks.norm import Norm
from ...space.network import SegmentationNet, Stem

_TRIES = 20  #: draws of one crop


def started(net: SegmentationNet, task: Task) -> SegmentationNet:
    """Return a network that shares the weights of ``net``, with its own task parameters at the start of ``task``."""
    probe = net.with_body(net.body)
    probe.task = nn.ParameterDict()
    probe.start_task(task.num_channels, task.num_organs)
    probe.task.to(net.head.background.dtype)
    return probe


def torch_generator(generator: np.random.Generator) -> torch.Generator:
    """Return a CPU generator that is seeded from ``generator``."""
    return torch.Generator().manual_seed(int(generator.integers(2**62)))


def draw_crops(task: Task, number: int, extent: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return crops of the unaugmented support views: images (N, C, x, y, z) and their coordinates (N, 3, x, y, z).

    A crop has ``extent`` voxels an axis, or half of a view's where that is less. The scans take turns; every second crop of a scan is
    centred at a voxel of an organ, the others lie anywhere. Places differ and crops are not constant, as air is in CT: two crops
    that a network cannot distinguish would decide a score alone.
    """
    images, coords, places = [], [], set[tuple[int, ...]]()
    for index in range(number):
        scan = index % task.num_scans
        views = task.support.views(scan)
        size = [min(extent, -(-int(n) // 2)) for n in views.labels.shape[1:]]
        for _ in range(_TRIES):
            place = _draw_place(views.labels, size, index // task.num_scans % 2 == 0, generator)
            where = (place[0], slice(None), *(slice(s, s + n) for s, n in zip(place[1:], size, strict=True)))
            crop = views.images[where]
            if (scan, *place) not in places and bool((crop != crop[:, :1, :1, :1]).any()):
                break
        places.add((scan, *place))
        images.append(crop)
        coords.append(views.coords[where])
    return torch.stack(images), torch.stack(coords)


def _draw_place(labels: Tensor, size: Sequence[int], at_organ: bool, generator: np.random.Generator) -> tuple[int, ...]:
    """Return an entry of ``labels`` (B, X, Y, Z) and the first voxel of a crop of ``size`` in it."""
    entry = int(generator.integers(len(labels)))
    free = np.subtract(labels.shape[1:], size)
    organ = torch.nonzero((labels[entry] > 0) & (labels[entry] != IGNORED)) if at_organ else ()
    if len(organ):
        start = np.clip(organ[int(generator.integers(len(organ)))].numpy() - np.array(size) // 2, 0, free)
    else:
        start = generator.integers(0, free + 1)
    return (entry, *(int(s) for s in start))


@contextmanager
def watched(net: nn.Module, take: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the block ``take`` is called with the output (B, C, X, Y, Z) of every activation: of the stem and all norms, as they run."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        take(output)

    with _hooked(net, {Norm: hook, Stem: hook}):
        yield


@contextmanager
def linear(net: nn.Module) -> Iterator[None]:
    """Within the block norms and activations of ``net`` are skipped: only convolutions, pools, mixtures and up-sampling are left."""

    def skip(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return inputs[0]

    def convolve(module: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> Tensor:
        return module.convolve(*inputs)

    with _hooked(net, {Norm: skip, Stem: convolve}):
        yield


@contextmanager
def _hooked(net: nn.Module, hooks: dict[type[nn.Module], Any]) -> Iterator[None]:
    handles = [
        module.register_forward_hook(hook) for module in net.modules() for kind, hook in hooks.items() if isinstance(module, kind)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_finite(values: Sequence[float], what: str) -> None:
    """Raise NonFiniteLossError if a value is not finite."""
    if not np.isfinite(values).all():
        raise NonFiniteLossError(f"{what} became infinite or not a number")


def forward(net: SegmentationNet, images: Tensor, coords: Tensor, task: Task, context: Context) -> Tensor:
    """Return the logits (B, K + 1, X, Y, Z) of crops in float32, without autocast."""
    runtime = context.runtime
    with runtime.autocast(False):
        return net(runtime.place(images), coords.to(runtime.device), task.strides)


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of the values that are not nan; nan if all are."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
