"""A training step of the merged supernet, the plain network and the ordinary DARTS supernet: time, activations, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...data.patches import coordinates
from ...data.plan import stride_schedule
from ...engine.state import build_network
from ...learner import Runtime, choose_runtime
from ...learner.losses import segmentation_loss
from ...learner.optimizer import Group, Optimizer
from ...space import SpaceSettings, UNetSupernetSettings, cost
from ...space.network import SegmentationNet
from .process import in_fresh_process, peak_bytes, provenance, reset_peak, rss_bytes, synchronize

Edge = Literal["plain", "merged", "darts"]
EDGES: tuple[Edge, ...] = ("plain", "merged", "darts")
#: goals: the largest ratios of the merged supernet to the plain network
TIME_GOAL, MEMORY_GOAL = 1.5, 1.2
SEED = 0


@dataclass(frozen=True)
class Size:
    """A search space and a batch of cubic views."""

    name: str
    space: SpaceSettings
    edge_voxels: int
    batch: int = 2

    def network(self, edge: Edge) -> SegmentationNet:
        """Return the network of this size with the candidates of ``edge`` on every edge."""
        return build_network(self.space.model_copy(update={"edge": edge}), SEED)

    @property
    def view(self) -> tuple[int, int, int]:
        return self.edge_voxels, self.edge_voxels, self.edge_voxels

    @property
    def strides(self) -> Sequence[tuple[int, int, int]]:
        return stride_schedule(self.view, (1.0, 1.0, 1.0), self.space.levels)


def default_sizes() -> tuple[Size, ...]:
    """Return the measured sizes: the default space with two view sizes, and the wider space of the shipped configurations."""
    return (
        Size("width 8, 32^3", UNetSupernetSettings(base_width=8, max_width=64, coarse_from=2, search_depth=True), 32),
        Size("width 8, 40^3", UNetSupernetSettings(base_width=8, max_width=64, coarse_from=2, search_depth=True), 40),
        Size("width 16, 32^3", UNetSupernetSettings(base_width=16, search_depth=True), 32),
    )


class Stepper:
    """One network with its optimizer and a batch; ``step`` trains all parameters, alphas included."""

    def __init__(self, size: Size, edge: Edge, runtime: Runtime) -> None:
        generator = torch.Generator().manual_seed(SEED)
        self.size, self.runtime = size, runtime
        self.net = size.network(edge).to(runtime.device)
        shape = (size.batch, *size.view)
        self.images = runtime.place(torch.randn(size.batch, 1, *size.view, generator=generator))
        self.coords = coordinates(size.view).expand(size.batch, -1, -1, -1, -1).to(runtime.device)
        self.labels = torch.randint(0, 2, shape, generator=generator).to(runtime.device)
        self.optimizer = Optimizer([Group(list(self.net.parameters()), 1e-3)], "adam", (0.9, 0.999))
        self.criterion = segmentation_loss()

    def loss(self) -> Tensor:
        """Return Dice plus cross-entropy of the batch."""
        with self.runtime.autocast():
            logits = self.net(self.images, self.coords, self.size.strides)
        return self.criterion(logits, self.labels)

    def step(self) -> None:
        """Take one step: forward, loss, backward, Adam."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def seconds(self) -> float:
        """Return the seconds of one step, by ``clock_name``."""
        clock = time.process_time if clock_name(self.runtime) == "processor" else time.perf_counter
        synchronize(self.runtime)
        start = clock()
        self.step()
        synchronize(self.runtime)
        return clock() - start

    def activation_bytes(self) -> int:
        """Return the bytes that the forward pass stores for the backward pass, without parameters and the batch."""
        own = [*self.net.parameters(), *self.net.buffers(), self.images, self.coords, self.labels]
        return stored_bytes(self.loss, own)


def clock_name(runtime: Runtime) -> str:
    """Return the clock that times a step: on one thread the processor's, which other processes do not disturb."""
    return "processor" if runtime.device.type == "cpu" and torch.get_num_threads() == 1 else "wall"


def stored_bytes(run: Callable[[], Tensor], ignore: Iterable[Tensor] = ()) -> int:
    """Return the bytes that ``run`` saves for its backward pass: each storage once, without those of ``ignore``."""
    known = {tensor.untyped_storage().data_ptr() for tensor in ignore}
    found: dict[int, int] = {}
    kept: list[Tensor] = []  # storages held here cannot be freed, so no other storage gets their address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and storage.data_ptr() not in found:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(found.values())


def measure_steps(sizes: Sequence[Size], repetitions: int, memory: bool = True) -> list[dict[str, Any]]:
    """Return one row for each size, precision and network. The networks of a size take turns.

    ``time_ratio`` is the median over repetitions of a network's seconds, relative to the plain network in the same repetition and
    precision, in the device's own format; ``low`` and ``high`` are its 10th and 90th percentile.
    """
    best = choose_runtime()
    rows: list[dict[str, Any]] = []
    for size in sizes:
        rows += _measure_size(size, best, repetitions)
        if memory:
            _add_memory(rows[-len(_variants(best)) :], size, best)
    return rows


def _variants(best: Runtime) -> list[tuple[Edge, Runtime]]:
    """Return the networks that take turns: all in float32, all in bfloat16 where that is fast, and one in the other format."""
    single = replace(best, bfloat16=False)
    runtimes = [single, best] if best.bfloat16 else [single]
    found: list[tuple[Edge, Runtime]] = [(edge, runtime) for runtime in runtimes for edge in EDGES]
    found.append(("plain", replace(single, channels_last=not single.channels_last)))
    return found


def _measure_size(size: Size, best: Runtime, repetitions: int) -> list[dict[str, Any]]:
    variants = _variants(best)
    steppers = [Stepper(size, edge, runtime) for edge, runtime in variants]
    for stepper in steppers:
        stepper.step()
    seconds = np.array([[stepper.seconds() for stepper in steppers] for _ in range(repetitions)])
    rows = []
    for index, ((edge, runtime), stepper) in enumerate(zip(variants, steppers, strict=True)):
        # the plain network of the same precision, in the device's format, is the base
        base = variants.index(("plain", replace(best, bfloat16=runtime.bfloat16)))
        ratios, against_single = seconds[:, index] / seconds[:, base], seconds[:, index] / seconds[:, 0]
        stored, plain = stepper.activation_bytes(), steppers[base].activation_bytes()
        counted = cost(stepper.net.body, size.view, size.strides)
        rows.append(
            {
                "size": size.name,
                "batch": size.batch,
                "network": edge,
                "precision": "bfloat16" if runtime.bfloat16 else "float32",
                "format": "channels-last" if runtime.channels_last else "contiguous",
                "repetitions": repetitions,
                "clock": clock_name(runtime),
                "seconds": round(float(np.median(seconds[:, index])), 4),
                "time_ratio": round(float(np.median(ratios)), 3),
                "time_ratio_low": round(float(np.percentile(ratios, 10)), 3),
                "time_ratio_high": round(float(np.percentile(ratios, 90)), 3),
                "time_to_plain_float32": round(float(np.median(against_single)), 3),
                "activation_mb": round(stored / 1e6, 2),
                "activation_ratio": round(stored / plain, 3),
                "parameters": counted["parameters"],
                "multiply_adds": counted["multiply_adds"],
                "step_mb": "",
                "step_memory_ratio": "",
                "process_mb": "",
                "process_memory_ratio": "",
                **provenance(SEED, runtime),
            }
        )
    return rows


def _add_memory(rows: Sequence[dict[str, Any]], size: Size, best: Runtime) -> None:
    """Add the peak memory of steps, measured in fresh processes, to the rows of one size in the device's own format."""
    plain: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row["format"] != ("channels-last" if best.channels_last else "contiguous"):
            continue
        runtime = replace(best, bfloat16=row["precision"] == "bfloat16")
        growth, whole = in_fresh_process(step_memory, size, row["network"], runtime)
        base = plain.setdefault(row["precision"], (growth, whole))  # the plain network comes first
        row["step_mb"], row["step_memory_ratio"] = round(growth / 1e6, 1), round(growth / base[0], 3)
        row["process_mb"], row["process_memory_ratio"] = round(whole / 1e6, 1), round(whole / base[1], 3)


def step_memory(size: Size, edge: Edge, runtime: Runtime, steps: int = 3) -> tuple[int, int]:
    """Return growth and peak of memory in bytes during training steps, of the process or of the CUDA device.

    Growth is the peak minus the memory held when network and batch were built. It includes activations, gradients, the
    optimizer's state, and memory that the allocator does not return.
    """
    # a small network first: one-time allocations of libraries are not part of a step's memory
    Stepper(replace(size, space=UNetSupernetSettings(base_width=2, levels=2), edge_voxels=8), edge, runtime).step()
    stepper = Stepper(size, edge, runtime)
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
        before = torch.cuda.memory_allocated(runtime.device)
    else:
        reset_peak()
        before = rss_bytes()
    for _ in range(steps):
        stepper.step()
    synchronize(runtime)
    peak = torch.cuda.max_memory_allocated(runtime.device) if runtime.device.type == "cuda" else peak_bytes()
    return peak - before, peak
