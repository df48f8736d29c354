"""The closed-form start of a task's head rows: class-balanced ridge regression on features of support voxels.

Few-shot classifiers gain most from a head solved in closed form (R2-D2, Bertinetto et al. 2019, arXiv 1805.08136, equation 6).
Here samples are voxels, and features come from all decoder levels. Cost: one forward pass per view and a solve of F unknowns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from ..ignored import IGNORED

LAMBDAS = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class VoxelSample:
    """Sampled voxels of a scan: ``features`` (n, F), ``labels`` (n,) in 0..K, ``weights`` (n,): voxels that each represents."""

    features: Tensor
    labels: Tensor
    weights: Tensor


def sample_voxels(labels: Tensor, count: int, generator: torch.Generator, background: bool = True) -> tuple[Tensor, Tensor]:
    """Return voxels (n, 3) of a label map (X, Y, Z) and their weights (n,): half background, the rest divided among organs.

    Voxels that are IGNORED are never drawn.
    Without ``background`` only the organs' share is drawn, which is empty in a map without organs.
    """
    flat = labels.flatten()
    present = [k for k in torch.unique(flat).tolist() if k != IGNORED]
    organs = [k for k in present if k]
    if not present:
        return torch.zeros((0, 3), dtype=torch.int64), torch.zeros(0)
    if not background:
        if not organs:
            return torch.zeros((0, 3), dtype=torch.int64), torch.zeros(0)
        # organs keep their share even where no voxel is background
        count, present = count // 2 // len(organs), organs
    chosen, weights = [], []
    for value in present:
        where = torch.nonzero(flat == value)[:, 0]
        quota = count // 2 if value == 0 else count // (2 * len(organs))
        if 0 not in present or not organs:
            quota = count
        take = where[torch.randperm(len(where), generator=generator)[: max(quota, 1)]]
        chosen.append(take)
        weights.append(torch.full((len(take),), len(where) / len(take)))
    return _places(torch.cat(chosen), labels.shape), torch.cat(weights)


def sample_labels(labels: Tensor, count: int, generator: torch.Generator, background: bool = True) -> tuple[Tensor, Tensor]:
    """Return voxels (n, 3) of a label map (X, Y, Z) and their weights (n,): ``count`` divided equally among its labels.

    A label with fewer voxels than its share gives all of them. Without ``background`` only organs are drawn.
    """
    flat = labels.flatten()
    present = [k for k in torch.unique(flat).tolist() if k != IGNORED and (k or background)]
    chosen, weights = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
    for value in present:
        where = torch.nonzero(flat == value)[:, 0]
        take = where[torch.randperm(len(where), generator=generator)[: max(count // len(present), 1)]]
        chosen.append(take)
        weights.append(torch.full((len(take),), len(where) / len(take)))
    return _places(torch.cat(chosen), labels.shape), torch.cat(weights)


def _places(index: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the voxels (n, 3) of positions (n,) in a flattened map of ``shape``."""
    _, y, z = shape
    return torch.stack([index // (y * z), index // z % y, index % z], 1)


def ridge(gram: Tensor, moment: Tensor, strength: float) -> Tensor:
    """Return rows (K + 1, F) solving ``(G + strength * I) W^T = M``; the last feature is the constant and is not shrunk.

    ``gram`` (F, F) is X'BX / n and ``moment`` (F, K + 1) is X'BY / n, with B the class-balancing weights.
    """
    penalty = torch.full((gram.shape[0],), strength, dtype=gram.dtype, device=gram.device)
    penalty[-1] = 1e-6
    return torch.linalg.solve(gram + torch.diag(penalty), moment).T


@dataclass(frozen=True)
class Moments:
    """Sums by class, in float64: ``counts`` (K + 1,), ``gram`` X'X (K + 1, F, F), ``moment`` X'Y (K + 1, F, K + 1)."""

    counts: Tensor
    gram: Tensor
    moment: Tensor

    @staticmethod
    def of(features: Tensor, labels: Tensor, num_organs: int) -> Moments:
        """Return the sums over ``features`` (n, F) and ``labels`` (n,); targets are 1 for a voxel's own class, otherwise -1."""
        x, labels = features.double(), labels.to(features.device)
        parts = [x[labels == k] for k in range(num_organs + 1)]
        sums = torch.stack([part.sum(0) for part in parts])
        signs = 2.0 * torch.eye(num_organs + 1, dtype=x.dtype, device=x.device) - 1.0
        gram = torch.stack([part.T @ part for part in parts])
        counts = torch.tensor([float(len(part)) for part in parts], dtype=x.dtype)
        return Moments(counts, gram, sums[:, :, None] * signs[:, None, :])

    def balanced(self) -> tuple[Tensor, Tensor]:
        """Return X'BX (F, F) and X'BY (F, K + 1): present classes have the same total weight, and all weights sum to one."""
        weights = class_weights(self.counts).to(self.gram.device)
        return torch.einsum("k,kij->ij", weights, self.gram), torch.einsum("k,kij->ij", weights, self.moment)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.counts - other.counts, self.gram - other.gram, self.moment - other.moment)


def total_of(parts: Sequence[Moments]) -> Moments:
    """Return the sums over all parts."""
    counts, gram, moment = (torch.stack(sums).sum(0) for sums in zip(*((p.counts, p.gram, p.moment) for p in parts), strict=True))
    return Moments(counts, gram, moment)


def class_weights(counts: Tensor) -> Tensor:
    """Return a weight per voxel by class, (K + 1,) float64: all present classes have the same sum, and all sum to one."""
    there = counts > 0
    return torch.where(there, 1.0 / counts.double().clamp(min=1) / max(int(there.sum()), 1), 0.0)


def complete_classes(samples: Sequence[VoxelSample], missing: Sequence[Sequence[int]], num_organs: int) -> list[VoxelSample]:
    """Return the samples with weights as if each class had been sampled in all of them.

    ``missing`` are the organs that are not annotated in each sample's scan; such a scan gives no background either. Without
    this, classes that few scans annotate would look rare.
    """
    if not any(missing):
        return list(samples)
    known = [sum(not organs for organs in missing)] + [
        sum(k not in organs for organs in missing) for k in range(1, num_organs + 1)
    ]
    factors = torch.tensor([len(missing) / number if number else 1.0 for number in known])
    return [replace(s, weights=s.weights * factors[s.labels]) for s in samples]


def closed_form_rows(samples: Sequence[VoxelSample], num_organs: int) -> tuple[Tensor, float]:
    """Return head rows (K + 1, F) float32 scaled to logits, and the chosen ridge strength.

    Strength, scale and biases are fitted to scores of scans that were left out of the solve. The logits are then neither over-
    nor under-confident, and the first gradient steps refine the rows instead of undoing them. Raises ValueError for fewer than
    two samples, because rows look too good on voxels of the scan they were solved on.
    """
    folds = list(samples)
    if len(folds) < 2:
        raise ValueError("expected at least two samples: rows are judged on samples that were left out of their solve")
    moments = [Moments.of(s.features, s.labels, num_organs) for s in folds]
    total = total_of(moments)
    # balance the remaining scans of each fold: an organ that is mainly in the left-out scan must not lose weight in the rows
    without = [(total - own).balanced() for own in moments]
    best: tuple[float, float, Tensor, Tensor] | None = None
    labels = torch.cat([s.labels for s in folds])
    weights = torch.cat([s.weights for s in folds])
    for strength in LAMBDAS:
        scores = [s.features.double() @ ridge(*rest, strength).T for s, rest in zip(folds, without, strict=True)]
        loss, scale, bias = calibrate_scores(torch.cat(scores), labels, weights)
        if best is None or loss < best[0]:
            best = (loss, strength, scale, bias)
    assert best is not None
    _, strength, scale, bias = best
    rows = ridge(*total.balanced(), strength).float() * scale
    rows[:, -1] += bias
    return rows, strength


def calibrate_scores(scores: Tensor, labels: Tensor, weights: Tensor) -> tuple[float, Tensor, Tensor]:
    """Return (loss, scale (), biases (K + 1,)) with the smallest loss of ``scale * scores + bias``.

    The loss is weighted cross-entropy plus soft Dice.
    For non-finite scores the loss is infinite and scale and biases are NaN, so that rows made from them cannot pass as valid.
    Uses SciPy's L-BFGS-B with an explicit gradient, because autograd took five times as long for so few unknowns.
    """
    start = np.zeros(scores.shape[1] + 1)
    start[0] = 1.0
    # non-finite scores are reported by the result, not by a warning
    with np.errstate(invalid="ignore", over="ignore"):
        objective = CalibrationLoss(scores, labels, weights)
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 25})
    if not np.isfinite(found.fun):
        return math.inf, torch.tensor(math.nan), torch.full((scores.shape[1],), math.nan)
    scale, bias = torch.tensor(float(np.exp(found.x[0]))), torch.from_numpy(found.x[1:]).float()
    return float(found.fun), scale, bias


class CalibrationLoss:
    """Loss and gradient of (log scale, biases) (K + 2,) for ``scores`` (n, K + 1), ``labels`` (n,) and ``weights`` (n,)."""

    def __init__(self, scores: Tensor, labels: Tensor, weights: Tensor) -> None:
        # voxels along the rows: sums over the few classes then add long rows
        self.scores = scores.detach().double().T.contiguous().numpy()
        self.target = F.one_hot(labels, scores.shape[1]).double().T.contiguous().numpy()
        self.weights = weights.double().numpy()
        self.share = self.weights / self.weights.sum()
        self.sizes = _weighted(self.target, self.weights)
        self.truth = (self.target * self.scores).sum(0)
        self.shares = _weighted(self.target, self.share)
        self.present = self.sizes > 0
        self.present[0] = False  # the overlap term ignores the background

    def __call__(self, unknowns: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient."""
        scale, bias = np.exp(unknowns[0]), unknowns[1:]
        p = scale * self.scores + bias[:, None]
        top = p.max(0)
        p -= top
        np.exp(p, out=p)
        total = p.sum(0)
        p /= total
        entropy = (self.share * (np.log(total) + top - scale * self.truth)).sum() - (self.shares * bias).sum()
        along = self.share * (p - self.target)  # gradient of the loss by logits
        # a small penalty keeps the scale finite if the classes are separable
        loss = float(entropy) + 1e-3 * float(np.square(unknowns).sum())
        if self.present.any():
            both = _weighted(p * self.target, self.weights)
            size = np.maximum(_weighted(p, self.weights) + self.sizes, 1e-6)
            loss += 1.0 - float((2 * both / size)[self.present].mean())
            pull = self.present * (-2.0 / self.present.sum()) / np.square(size)
            by_p = (self.target * (size * pull)[:, None] - (both * pull)[:, None]) * self.weights
            along += p * (by_p - (p * by_p).sum(0))
        gradient = 2e-3 * unknowns
        gradient[0] += scale * float((along * self.scores).sum())
        gradient[1:] += along.sum(1)
        return loss, gradient


def _weighted(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted sums of ``rows`` (k, n), without BLAS, whose threads cost more than such a small product."""
    return np.einsum("kn,n->k", rows, weights)
