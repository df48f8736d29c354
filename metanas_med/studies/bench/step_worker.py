"""A process that takes training steps on demand: ``python -P step_worker.py NETWORK PRECISION THREADS``.

It imports nothing from its own folder, and only what older code has, too: with another checkout first on ``PYTHONPATH`` it
measures that one. It answers a line on its standard input with one of JSON: ``step`` with the seconds of a step, ``product`` with
the speed of a large matrix product.
"""

from __future__ import annotations

import json
import sys
import time

import torch

VIEW, SPACING, BATCH = (40, 40, 20), (1.0, 1.0, 1.0), 8
#: settings of ``unet_supernet``, by the names that the table shows
NETWORKS = {
    "width 16, one 3x3x3 convolution an edge": {
        "base_width": 16,
        "max_width": 64,
        "nodes": (1,),
        "candidates": ("conv333",),
        "coarse_candidates": (),
    },
    "width 8, all candidates": {"base_width": 8, "max_width": 64},
}


class Steps:
    """A network with its batch and optimizer; ``step`` is one step of an adaptation by its default settings."""

    def __init__(self, network: str, bfloat16: bool) -> None:
        from metanas_med.data.patches import coordinates
        from metanas_med.data.plan import stride_schedule
        from metanas_med.engine.state import build_network
        from metanas_med.learner import choose_runtime
        from metanas_med.learner.losses import segmentation_loss
        from metanas_med.learner.optimizer import Group, Optimizer
        from metanas_med.space import UNetSupernetSettings, supernet_multiply_adds

        self.runtime = choose_runtime("cpu", "bfloat16" if bfloat16 else "float32")
        space = UNetSupernetSettings.model_validate(NETWORKS[network])
        self.net = build_network(space, 0)
        self.strides = stride_schedule(VIEW, SPACING, space.levels)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(BATCH, 1, *VIEW, generator=generator)
        self.coords = coordinates(VIEW).expand(BATCH, -1, -1, -1, -1)
        self.labels = torch.randint(0, 2, (BATCH, *VIEW), generator=generator)
        named = {name: p for name, p in self.net.named_parameters() if not name.startswith("body.alphas.")}
        head = [p for name, p in named.items() if name.startswith(("head.", "task."))]
        body = [p for name, p in named.items() if not name.startswith(("head.", "task."))]
        self.parameters = [*body, *head]
        self.optimizer = Optimizer([Group(body, 2e-3, 2e-2), Group(head, 2e-3)], "muon", (0.9, 0.99))
        self.loss = segmentation_loss()
        #: of forward and backward pass: the gradients of features and of kernels cost as much as the forward pass each
        self.multiply_adds = 3 * BATCH * supernet_multiply_adds(space, VIEW, self.strides)

    def step(self) -> None:
        """Take one step on weights and task parameters."""
        with self.runtime.autocast():
            logits = self.net(self.runtime.place(self.images), self.coords, self.strides)
        loss = self.loss(logits, self.labels)
        for p, g in zip(self.parameters, torch.autograd.grad(loss, self.parameters, allow_unused=True), strict=True):
            p.grad = g
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


def product_gflops(bfloat16: bool, size: int = 1024) -> float:
    """Return the billions of floating-point operations a second of a large matrix product, the best of seven."""
    a = torch.randn(size, size).to(torch.bfloat16 if bfloat16 else torch.float32)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2e-9 * size**3 / min(seconds)


def main() -> None:
    """Answer requests until the input ends."""
    network, precision, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    steps = Steps(network, precision == "bfloat16")
    for _ in range(2):
        steps.step()
    print(json.dumps({"multiply_adds": steps.multiply_adds}), flush=True)
    for line in sys.stdin:
        if line.strip() == "product":
            print(json.dumps(product_gflops(precision == "bfloat16")), flush=True)
            continue
        processor, wall = time.process_time(), time.perf_counter()
        steps.step()
        print(json.dumps({"processor": time.process_time() - processor, "wall": time.perf_counter() - wall}), flush=True)


if __name__ == "__main__":
    main()
