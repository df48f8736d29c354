"""Statistics of alphas during a meta-training, and its final figures: curves, alphas, the architecture, a validation scan."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..learner.evidence import NOT_APART
from ..report.figures import alpha_heatmap, curves
from ..report.genotype import draw_architecture
from ..space import genotype, outline
from ..tracking import Tracker, read_rows
from .learned import Learned
from .validate import Validator


def write_figures(
    folder: Path, body: Any, validator: Validator, tracker: Tracker, learned: Learned | None = None, committed: bool = False
) -> bool:
    """Return whether figures were written: of the rows tracked in ``folder``, and of ``body``, which holds the meta state.

    The heat map shows the alphas of ``learned``; without it, those of ``body``.
    """
    path, figures = folder / "iteration.jsonl", folder / "figures"
    rows = read_rows(path) if path.exists() else []
    if not rows:
        return False
    curves(
        figures / "meta_training.png", rows, "iteration", ["loss", "loss_first_step", "contrast", "query_dice"], "Meta-training"
    )
    tracker.figure("meta_training", figures / "meta_training.png")
    if probabilities := {n: p.detach().tolist() for n, p in body.probabilities().items()}:
        labels, marked = {name: row.options for name, row in body.rows().items()}, learned.undecided if learned else ()
        shown = learned.probabilities() if learned else probabilities
        caption = heatmap_caption(learned, committed)
        alpha_heatmap(figures / "alphas.png", shown, labels, caption, marked)
        tracker.figure("alphas", figures / "alphas.png")
        draw_architecture(figures / "architecture.svg", asdict(outline(genotype(body))))
        tracker.figure("architecture", figures / "architecture.svg")
    if validator.draw(figures / "validation.png"):
        tracker.figure("validation", figures / "validation.png")
    return True


def heatmap_caption(learned: Learned | None, committed: bool) -> str:
    """Return what the heat map of a run shows: its alphas, or those before the commitment, and what its marks mean."""
    if learned is None:
        after = "Alphas after the commitment, which fixed the lead of the first choices; earlier alphas are not known"
        return after if committed else "Alphas"
    text = f"Alphas before the commitment (iteration {learned.iteration})" if committed else "Alphas"
    if not any(len(set(row)) > 1 for row in learned.alphas.values()):
        text += ": nothing was learned, all options are equal"
    return f"{text}\n* {NOT_APART}" if learned.undecided else text


def alpha_statistics(alphas: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Return the mean entropy of the alpha rows relative to uniform (1: undecided) and their mean top probability, at tau 1."""
    entropies, tops = [], []
    for _, row in sorted(alphas.items()):  # a loaded state has another order, which would change the last bit of the sums
        if row.numel() > 1:
            p = row.double().softmax(0)
            entropies.append(float(-(p * p.clamp(min=1e-12).log()).sum()) / math.log(row.numel()))
            tops.append(float(p.max()))
    return (float(np.mean(entropies)), float(np.mean(tops))) if tops else (0.0, 1.0)
