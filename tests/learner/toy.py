"""Toy supports and tiny networks for the task learner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metanas_med.config.section import merged
from metanas_med.learner import Context, DartsSettings, Runtime, Task
from metanas_med.learner.relaxations import Softmax, SoftmaxSettings
from metanas_med.space import get_space, read_space_settings
from metanas_med.space.choice import Relaxed
from metanas_med.space.network import SegmentationNet

SHAPE = (10, 9, 6)
STRIDES = ((2, 2, 1), (2, 2, 2))
#: a plain DARTS run: Adam, a cosine, bilevel alphas on two halves, the genotype after half of the steps
PLAIN: dict[str, Any] = {
    "steps": 4,
    "batch": 2,
    "ridge_voxels": 120,
    "optimizer": "adam",
    "lr_decay": "cosine",
    "average": 0.0,
    "relaxation": {"tau_start": 1.0, "tau_end": 0.1},
    "alpha_gradient": {"name": "first_order"},
}
SOFT: dict[str, Any] = {"discretizer": {"name": "none"}}  #: the network stays soft
JOINT: dict[str, Any] = {"alpha_gradient": {"name": "single_level"}}  #: alphas step with the weights
CPU = Runtime()


@dataclass(frozen=True)
class ToyBatch:
    images: Tensor
    coords: Tensor
    labels: Tensor
    scans: tuple[int, ...]  #: where each entry comes from
    missing: tuple[tuple[int, ...], ...] = ()


@dataclass
class ToySupport:
    """Scans with a bright box each; batches are noisy copies, drawn from its own generator."""

    num_scans: int = 2
    num_channels: int = 1
    num_organs: int = 1
    seed: int = 0
    dtype: torch.dtype = torch.float32
    requests: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    batches: list[ToyBatch] = field(default_factory=list)  #: all that the stream gave, in order

    def scan(self, number: int) -> tuple[Tensor, Tensor]:
        """Return image (C, X, Y, Z) and labels (X, Y, Z) of one scan."""
        g = torch.Generator().manual_seed(1000 * self.seed + number)
        labels = torch.zeros(SHAPE, dtype=torch.int64)
        for organ in range(1, self.num_organs + 1):
            start = [int(torch.randint(0, n - 4, (), generator=g)) for n in SHAPE]
            labels[tuple(slice(s, s + 4) for s in start)] = organ
        image = labels[None] * 1.5 + 0.5 * torch.randn(self.num_channels, *SHAPE, generator=g)
        return image.to(self.dtype), labels

    def coords(self) -> Tensor:
        axes = [torch.linspace(-1, 1, n, dtype=self.dtype) for n in SHAPE]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def pack(self, scans: Sequence[int], noise: float, g: torch.Generator | None) -> ToyBatch:
        images, labels = zip(*(self.scan(i) for i in scans), strict=True)
        stack = torch.stack(images)
        if noise:
            stack = stack + noise * torch.randn(stack.shape, generator=g).to(self.dtype)
        return ToyBatch(stack, torch.stack([self.coords()] * len(scans)), torch.stack(labels), tuple(scans))

    def stream(self, requests: Sequence[tuple[int, Sequence[int]]]) -> Iterator[ToyBatch]:
        g = torch.Generator().manual_seed(self.seed)
        for size, numbers in requests:
            self.requests.append((size, tuple(numbers)))
            chosen = [numbers[int(torch.randint(len(numbers), (), generator=g))] for _ in range(size)]
            self.batches.append(self.pack(chosen, 0.1, g))
            yield self.batches[-1]

    def views(self, scan: int) -> ToyBatch:
        return self.pack([scan], 0.0, None)

    def task(self) -> Task:
        return Task(self, self.num_scans, self.num_channels, self.num_organs, STRIDES, SHAPE)


def make_net(
    name: str = "unet_supernet", dtype: torch.dtype = torch.float32, spread: float = 0.0, **space: object
) -> SegmentationNet:
    """Return a small network, always the same; ``spread`` moves its alphas off zero."""
    given = {"name": name, "base_width": 3, "max_width": 6, "levels": 3, "nodes": (1, 2), "coarse_from": 2}
    given |= {"search_depth": True} | space
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SegmentationNet(get_space(read_space_settings(given)).build(None)).to(dtype)
        if spread:
            with torch.no_grad():
                for row in net.alphas().values():
                    row.normal_(0, spread)
    return net


def settings(**changes: Any) -> DartsSettings:
    """Return ``PLAIN`` with ``changes``, laid over it section by section."""
    return DartsSettings.model_validate(merged(DartsSettings, PLAIN, changes))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def context(seed: int = 0, runtime: Runtime = CPU, **given: Any) -> Context:
    """Return what a run depends on, with a generator of ``seed``."""
    return Context(rng(seed), runtime, **given)


def soft(tau: float, prune: float = 0.0) -> Relaxed:
    """Return the state of a soft network at temperature ``tau``."""
    return Relaxed(Softmax(SoftmaxSettings(tau_start=tau, tau_end=tau)), prune=prune)


def tau_of(net: SegmentationNet) -> float:
    """Return the temperature of ``net`` now."""
    relaxed: Any = net.body.relaxed
    s = relaxed.relaxation.settings
    return s.tau_start + (s.tau_end - s.tau_start) * relaxed.progress
