"""Statistics of alphas during a meta-training, and its final figures: curves, alphas, the architecture, a validation scan."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..report.figures import alpha_heatmap, curves
from ..report.genotype import draw_architecture
from ..space import genotype, outline
from ..tracking import Tracker, read_rows
from .validate import Validator


def write_figures(folder: Path, body: Any, validator: Validator, tracker: Tracker) -> bool:
    """Return whether figures were written: of the rows tracked in ``folder``, and of ``body``, which holds the meta state."""
    path, figures = folder / "iteration.jsonl", folder / "figures"
    rows = read_rows(path) if path.exists() else []
    if not rows:
        return False
    curves(
        figures / "meta_training.png", rows, "iteration", ["loss", "loss_first_step", "contrast", "query_dice"], "Meta-training"
    )
    tracker.figure("meta_training", figures / "meta_training.png")
    if probabilities := {n: p.detach().tolist() for n, p in body.probabilities().items()}:
        alpha_heatmap(figures / "alphas.png", probabilities, {name: row.options for name, row in body.rows().items()})
        tracker.figure("alphas", figures / "alphas.png")
        draw_architecture(figures / "architecture.svg", asdict(outline(genotype(body))))
        tracker.figure("architecture", figures / "architecture.svg")
    if validator.draw(figures / "validation.png"):
        tracker.figure("validation", figures / "validation.png")
    return True


def alpha_statistics(alphas: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Return the mean entropy of the alpha rows relative to uniform (1: undecided) and their mean top probability, at tau 1."""
    entropies, tops = [], []
    for _, row in sorted(alphas.items()):  # a loaded state has another order, which would change the last bit of the sums
        if row.numel() > 1:
            p = row.double().softmax(0)
            entropies.append(float(-(p * p.clamp(min=1e-12).log()).sum()) / math.log(row.numel()))
            tops.append(float(p.max()))
    return (float(np.mean(entropies)), float(np.mean(tops))) if tops else (0.0, 1.0)
