"""How much the features of a network differ from each other: a penalty on correlated ones, and their effective number."""

from __future__ import annotations

import torch
from torch import Tensor


def log_correlation(features: Tensor) -> Tensor:
    """Return the logarithm of the mean squared correlation of ``features`` (n, F): from -log F (uncorrelated) to 0 (all alike).

    Features trained on few tasks become alike and may then lack what a new organ needs. The covariance term of VICReg (Bardes et
    al. 2022, arXiv 2105.04906, equation 4) penalises the same. Cost: a product of F x n and n x F.
    """
    centred = features - features.mean(0)
    # constant features correlate with nothing and have no gradient
    scaled = centred / centred.square().sum(0).clamp(min=1e-6).sqrt()
    return (scaled.T @ scaled).square().mean().log()


def effective_number(features: Tensor) -> float:
    """Return the effective rank of the correlations of ``features`` (n, F): 1 if all are alike, F if no two are.

    The exponential of the entropy of their spectrum (Roy and Vetterli 2007, "The effective rank").
    """
    x = features.double()
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
    share = torch.linalg.eigvalsh(x.T @ x).clamp(min=0)
    share = share / share.sum()
    return float(torch.exp(-(share * share.clamp(min=1e-300).log()).sum()))
