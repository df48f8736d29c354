"""Networks of MONAI with the interface of ours, so that one loop trains both; no meta-learned part, no closed-form head."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError, suggest
from ...space.choice import Relaxed


def _segresnet(channels: int, classes: int) -> nn.Module:
    from monai.networks.nets.segresnet import SegResNet

    # width and blocks of MONAI's own brain-tumour example, its default group norm
    blocks = {"blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1)}
    return SegResNet(spatial_dims=3, in_channels=channels, out_channels=classes, init_filters=16, **blocks)  # type: ignore[arg-type]


def _dints(channels: int, classes: int) -> nn.Module:
    from monai.networks.nets.dints import DiNTS, TopologyInstance

    # MONAI's own sizes; MONAI ships no searched topology, so every edge of the grid is kept, with a 3x3x3 convolution
    blocks, depths = 6, 3
    code = [np.ones((blocks, 3 * depths - 2))] * 2  # every edge, and operation 1 on each
    with redirect_stdout(io.StringIO()):  # it prints a recommendation, which PeerNet follows
        topology = TopologyInstance(arch_code=code, num_blocks=blocks, num_depths=depths)
    return DiNTS(topology, channels, classes)


#: by name: how the network is built, and what sizes must be multiples of (halved three times; as MONAI recommends)
NETWORKS = {"segresnet": (_segresnet, 8), "dints": (_dints, 16)}


class PeerNet(nn.Module):
    """A network of MONAI, built when a task starts and its channels and organs are known; ignores coordinates and strides.

    Inputs are padded with their edge values to a multiple of 8 or 16, and the logits are cropped.
    """

    def __init__(self, name: str, seed: int) -> None:
        super().__init__()
        if name not in NETWORKS:
            raise ConfigError(f"unknown network {name!r}; {suggest(name, NETWORKS)}")
        self.name, self.seed = name, seed
        self.body: Any = SimpleNamespace(relax=lambda relaxed: None, relaxed=Relaxed())
        self.net: nn.Module = nn.Identity()

    def start_task(self, num_channels: int, num_organs: int) -> None:
        """Build a new network on the same device; the seed alone decides its weights."""
        device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.net = NETWORKS[self.name][0](num_channels, num_organs + 1).to(device)

    def forward(self, images: Tensor, coords: Tensor, strides: Sequence[Sequence[int]]) -> Tensor:
        """Return logits (B, K + 1, X, Y, Z) float32 of ``images`` (B, C, X, Y, Z)."""
        size = images.shape[2:]
        missing = [-n % NETWORKS[self.name][1] for n in size]
        pad = [part for m in reversed(missing) for part in (m // 2, m - m // 2)]
        logits = self.net(F.pad(images, pad, mode="replicate") if any(missing) else images)
        cut = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, size, strict=True))
        return logits[(slice(None), slice(None), *cut)].float()

    def weights(self) -> dict[str, nn.Parameter]:
        """Return all parameters by name."""
        return dict(self.net.named_parameters())

    def alphas(self) -> dict[str, nn.Parameter]:
        """Return nothing: nothing is searched."""
        return {}

    def task_parameters(self) -> dict[str, nn.Parameter]:
        """Return nothing: every weight belongs to the task."""
        return {}


def peer_cost(net: PeerNet, num_channels: int, shape: Sequence[int]) -> dict[str, int]:
    """Return parameters and multiply-adds of one sample of ``shape`` (X, Y, Z), counted by torch's flop counter."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(net.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, num_channels, *shape, device=device), torch.zeros(0), ())
    return {"parameters": sum(p.numel() for p in net.parameters()), "multiply_adds": counter.get_total_flops() // 2}
