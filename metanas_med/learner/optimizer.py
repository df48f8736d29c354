"""Optimizers of weights behind one face: Adam or SGD for everything, or Muon for kernels with Adam beside it.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Liu et al. 2025, arXiv 2502.16982, section 2.2 for
the scale of its updates) replaces the momentum of a kernel, seen as a matrix (cout, the rest), by the orthogonal matrix next to it: all
of its directions move alike, not just those whose gradients are large. In the few steps of an adaptation that counts.

Cost beside Adam: fifteen small matrix products a kernel shape and step (five iterations), one moment a weight instead of two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class ManyMuon(torch.optim.Muon):
    """torch's Muon, which takes one matrix after another, for networks of hundreds of small ones: those of one shape go through the iteration
    together. A supernet of 281 kernels has 29 shapes up to transposition; a step of them takes a third of the time (30 ms for 88, one core).
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
                p.mul_(1 - group["lr"] * group["weight_decay"])
                together.setdefault((min(p.shape), max(p.shape)), []).append((p, _wide(update)))
            for (_, longest), pairs in together.items():
                # a root mean square of a fifth of the rate, whatever the kernel's shape
                rate = group["lr"] * 0.2 * math.sqrt(longest)
                for (p, _), found in zip(pairs, orthogonal(torch.stack([update for _, update in pairs])), strict=True):
                    _wide(p).sub_(found, alpha=rate)


def _wide(matrix: Tensor) -> Tensor:
    """Return a view of ``matrix`` (rows, columns) with no more rows than columns."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def orthogonal(matrices: Tensor) -> Tensor:
    """Return near-orthogonal matrices (n, r, c) bf16, singular values about 1, with the singular vectors of ``matrices`` (n, r, c), r <= c.

    Five Newton-Schulz iterations of a quintic polynomial in bf16, as torch's Muon takes for one matrix (Jordan et al. 2024).
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
    """Parameters of one learning rate; ``kernel_lr`` is Muon's for those of them that are kernels (None: none of them is)."""

    params: Sequence[nn.Parameter]
    lr: float
    kernel_lr: float | None = None


class Optimizer:
    """``kind`` ("adam", "sgd" or "muon") on ``groups``. Rates are set by ``scale_rates``; a parameter without gradient is not moved.

    ``keep_norms``: after a step, each kernel that Muon moved is scaled to the norm that it was given with. Steps that are orthogonal to a
    kernel lengthen it, and the longer it is the less a step of one size turns it: a long training would hand over kernels that a short
    adaptation hardly moves (Kosson et al. 2024, arXiv 2305.17212, section 3). Behind a norm layer the length of a sum of kernels has no
    other effect; shares of candidates in one sum are then a matter of alphas alone.
    """

    def __init__(
        self, groups: Sequence[Group], kind: str, betas: tuple[float, float], weight_decay: float = 0.0, keep_norms: bool = False
    ) -> None:
        self.params = [p for group in groups for p in group.params]
        #: of every kernel that Muon steps: the same memory as a matrix
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
        """Set every learning rate to ``factor`` times what it was given as."""
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
                # convolutions of channels-last maps give such gradients, and merged edges do; torch's fused Adam walks memory, not elements, and
                # steps the wrong ones by them, on CPUs without a word (seen in 2.11 and 2.15). On CUDA devices it refuses, even where only
                # the stride of an axis of size 1 differs (pytorch#106951)
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
        """Take up moments that ``state`` gave; copies of them, so that they stay as they are."""
        key = self._matrices.get(parameter, parameter)
        for part in self._parts:
            # moments of another kind of optimizer say nothing to this one: it begins with none, as on a parameter it never saw
            if set(state) == _MOMENTS[type(part)] and any(key is p for group in part.param_groups for p in group["params"]):
                part.state[key] = {name: value.to(parameter.device, copy=True) for name, value in state.items()}
