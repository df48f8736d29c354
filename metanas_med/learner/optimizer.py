"""Optimizers of weights with one interface: Adam or SGD for all weights, or Muon for kernels and Adam for the rest.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Liu et al. 2025, arXiv 2502.16982, section
2.2 for the scale of its updates) views the momentum of a kernel as a matrix (cout, the rest) and replaces it by the nearest
orthogonal matrix. All directions then move equally, not only those with large gradients. This helps in the few steps of an
adaptation.

Cost compared with Adam: fifteen small matrix products per kernel shape and step (five iterations); one moment per weight instead
of two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class ManyMuon(torch.optim.Muon):
    """torch's Muon for networks with hundreds of small kernels: all matrices of one shape share the iteration.

    torch iterates over single matrices. A supernet of 281 kernels has only 29 shapes up to transposition, so a step takes a
    third of the time (30 ms instead of 88 ms on one core).
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step every parameter that has a gradient."""
        for group in self.param_groups:
            together: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}  #: parameters and their updates, wide, by shape
            for p in (p for p in group["params"] if p.grad is not None):
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                moment = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(moment, group["momentum"])  # Nesterov's
                if group["weight_decay"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                together.setdefault((min(p.shape), max(p.shape)), []).append((p, _wide(update)))
            for (_, longest), pairs in together.items():
                # the root mean square of an update is a fifth of the rate, for every kernel shape
                rate = group["lr"] * 0.2 * math.sqrt(longest)
                for (p, _), found in zip(pairs, orthogonal(torch.stack([update for _, update in pairs])), strict=True):
                    _wide(p).sub_(found, alpha=rate)


def _wide(matrix: Tensor) -> Tensor:
    """Return a view of ``matrix`` (rows, columns) with no more rows than columns."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def orthogonal(matrices: Tensor) -> Tensor:
    """Return near-orthogonal matrices (n, r, c) bf16 with the singular vectors of ``matrices`` (n, r, c), r <= c.

    Singular values are about 1. Takes five Newton-Schulz iterations of a quintic polynomial in bf16, as torch's Muon does
    (Jordan et al. 2024).
    """
    x = matrices.bfloat16()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, gram, x, beta=3.4445)
    return x


_MOMENTS = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
    ManyMuon: {"momentum_buffer"},
}


@dataclass(frozen=True)
class Group:
    """Parameters with one learning rate; ``kernel_lr`` is Muon's rate for the kernels among them (None: no Muon)."""

    params: Sequence[nn.Parameter]
    lr: float
    kernel_lr: float | None = None


class Optimizer:
    """``kind`` ("adam", "sgd" or "muon") on ``groups``. ``scale_rates`` sets rates; a parameter without gradient does not move.

    ``keep_norms``: after a step, each kernel that Muon moved is rescaled to its initial norm. Steps orthogonal to a kernel
    increase its norm, and a larger norm makes steps of one size rotate it less. After a long training, a short adaptation would
    hardly change such kernels (Kosson et al. 2024, arXiv 2305.17212, section 3). Before a norm layer, the norm of a sum of
    kernels has no other effect. Only alphas then determine the shares of candidates in a sum.
    """

    def __init__(
        self, groups: Sequence[Group], kind: str, betas: tuple[float, float], weight_decay: float = 0.0, keep_norms: bool = False
    ) -> None:
        self.params = [p for group in groups for p in group.params]
        #: every kernel that Muon steps, viewed as a matrix in the same memory
        self._matrices: dict[nn.Parameter, nn.Parameter] = {}
        plain, kernels = [], []
        for group in groups:
            muon = [p for p in group.params if kind == "muon" and group.kernel_lr is not None and p.ndim > 1]
            self._matrices |= {p: nn.Parameter(p.detach().view(p.shape[0], -1)) for p in muon}
            plain.append({"params": [p for p in group.params if p not in self._matrices], "lr": group.lr})
            kernels.append({"params": [self._matrices[p] for p in muon], "lr": group.kernel_lr})
        plain, kernels = ([g for g in some if g["params"]] for some in (plain, kernels))
        self._parts: list[torch.optim.Optimizer] = []
        if plain and kind == "sgd":
            self._parts.append(torch.optim.SGD(plain, momentum=betas[0], weight_decay=weight_decay))
        elif plain:
            self._parts.append(torch.optim.Adam(plain, betas=betas, weight_decay=weight_decay, fused=True))
        if kernels:
            self._parts.append(ManyMuon(kernels, weight_decay=weight_decay, momentum=betas[0]))
        self._norms = {m: m.detach().norm() for m in self._matrices.values()} if keep_norms else {}
        self._rates = [(group, group["lr"]) for part in self._parts for group in part.param_groups]

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to ``factor`` times its initial value."""
        for group, rate in self._rates:
            group["lr"] = factor * rate

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        for p in self.params:
            if p in self._matrices:
                self._matrices[p].grad = None if p.grad is None else p.grad.reshape(self._matrices[p].shape)
            elif p.grad is not None and p.grad.stride() != p.stride():
                # convolutions of channels-last maps and merged edges give gradients with other strides. torch's fused Adam
                # ignores strides and updates wrong elements, on CPUs silently (seen in 2.11 and 2.15). On CUDA devices it
                # raises an error, even if only the stride of an axis of size 1 differs (pytorch#106951)
                p.grad = torch.empty_like(p).copy_(p.grad)
        for part in self._parts:
            part.step()
        with torch.no_grad():
            for matrix, norm in self._norms.items():
                if matrix.grad is not None:
                    matrix.mul_(norm / matrix.norm().clamp(min=1e-12))

    def state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the moments of a parameter by name; empty before its first step."""
        key = self._matrices.get(parameter, parameter)
        return next((dict(part.state[key]) for part in self._parts if key in part.state), {})

    def restore(self, parameter: nn.Parameter, state: Mapping[str, Tensor]) -> None:
        """Restore copies of moments that ``state`` returned."""
        key = self._matrices.get(parameter, parameter)
        for part in self._parts:
            # moments of another kind of optimizer are ignored: this one starts without, as on a new parameter
            if set(state) == _MOMENTS[type(part)] and any(key is p for group in part.param_groups for p in group["params"]):
                part.state[key] = {name: value.to(parameter.device, copy=True) for name, value in state.items()}
