"""SDARTS: weight steps at perturbed weights of options, so that the loss is smooth around the alphas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ...space.choice import Choice
from ...space.network import SegmentationNet
from ..episode import Task
from .base import Combination, RegularizerSettings, register_regularizer

Rows = Mapping[str, Tensor]


class SdartsSettings(RegularizerSettings):
    """How weight steps are perturbed."""

    name: str = "sdarts"
    mode: Literal["random", "adversarial"] = "random"  #: random: uniform noise; adversarial: signed ascent of the loss
    radius_start: float = Field(default=0.03, ge=0, le=1)  #: largest change of a weight at the first step
    radius_end: float = Field(default=0.3, ge=0, le=1)  #: the same at the last step; linear in between
    ascents: int = Field(default=7, ge=1)  #: adversarial: steps of ascent, each of 2 radius / ascents


@register_regularizer(
    "sdarts",
    settings=SdartsSettings,
    source="SmoothDARTS, Chen and Hsieh 2020, arXiv 2002.05283",
    needs="alpha steps of their own (first_order, second_order)",
    costs="random: nothing; adversarial: ascents + 2 passes per weight step (9 as published), all but two with a gradient",
    refuses="alpha_gradient single_level, and relaxations that run only some of the options",
)
class Sdarts:
    """Weight steps see ``softmax(alphas)`` moved by at most the radius; alpha steps see it as it is."""

    def __init__(self, settings: SdartsSettings) -> None:
        self.settings = settings

    def on(self, net: SegmentationNet, task: Task) -> None:
        """Return no penalty."""

    @property
    def evaluations(self) -> int:
        """Gradients per weight step, in addition to that of the step."""
        return self.settings.ascents if self.settings.mode == "adversarial" else 0

    def perturb(
        self, choice: Choice, loss: Callable[[Rows], Tensor], progress: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the rows of a weight step; ``loss(rows)``: of its batch at the present weights."""
        s = self.settings
        radius = s.radius_start + (s.radius_end - s.radius_start) * progress
        rows = {name: row.detach() for name, row in choice.rows.items()}
        if s.mode == "random":
            return random_rows(rows, radius, generator)
        return adversarial_rows(rows, loss, radius, s.ascents)

    def reason_against(self, combination: Combination) -> str:
        """Return why the combination is impossible; empty if it is not."""
        if not combination.bilevel:
            return (
                "it perturbs weight steps alone, and single_level steps alphas with the weights. "
                "Use alpha_gradient.name first_order."
            )
        if combination.samples:
            return (
                f"it perturbs the weights of all options, and relaxation {combination.learner.relaxation.name} runs some of them. "
                "Use relaxation.name softmax."
            )
        return ""


def random_rows(rows: Rows, radius: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Return ``rows`` plus noise that is uniform in [-radius, radius], as weights of options again."""
    found = {}
    for name, row in rows.items():
        noise = torch.rand(row.shape, generator=generator).to(row) * 2.0 - 1.0
        found[name] = as_weights(row + radius * noise, row)
    return found


def adversarial_rows(rows: Rows, loss: Callable[[Rows], Tensor], radius: float, ascents: int = 7) -> dict[str, Tensor]:
    """Return ``rows`` after ``ascents`` signed steps up ``loss``, projected to the radius; ``rows`` where the loss fell."""
    start = {name: row.detach() for name, row in rows.items()}
    with torch.no_grad():
        before = loss(start)
    found = start
    for _ in range(ascents):
        free = {name: row.clone().requires_grad_() for name, row in found.items()}
        grads = torch.autograd.grad(loss(free), list(free.values()), allow_unused=True)
        slopes = {name: 0.0 if g is None else g.sign() for name, g in zip(free, grads, strict=True)}
        moved = {name: row + 2 * radius / ascents * slopes[name] for name, row in found.items()}
        found = {name: as_weights(torch.clamp(moved[name], row - radius, row + radius), row) for name, row in start.items()}
    with torch.no_grad():
        return found if bool(loss(found) >= before) else start


def as_weights(row: Tensor, given: Tensor) -> Tensor:
    """Return ``row`` within [0, 1] and scaled to the sum of ``given``: 1 for a softmax."""
    row = row.clamp(0.0, 1.0)
    return row * (given.sum() / row.sum().clamp(min=1e-12))
