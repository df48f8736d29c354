"""The settings of DARTS as task learner, and which combinations of its parts are impossible."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ..config import ByName
from ..space import SpaceSettings
from ..space.base import RELAXED_ROWS, Body, Row
from .alpha_gradients import ALPHA_GRADIENTS, AlphaGradientSettings, SingleLevelSettings
from .alpha_rule import alpha_reason
from .discretizers import DISCRETIZERS, ArgmaxSettings, DiscretizerSettings, NoneSettings
from .hooks import reason_against, without_effect
from .regularizers import REGULARIZERS, Regularizer, RegularizerSettings
from .relaxations import RELAXATIONS, RelaxationSettings, SoftmaxSettings
from .weights import WeightSettings

log = logging.getLogger(__name__)


class DartsSettings(WeightSettings):
    """A differentiable search on one support set, and the training of what it finds."""

    name: str = "darts"
    #: adapt: search; frozen: the meta-learned architecture; random: one of equal cost; auto: adapt or frozen (alpha_rule.py)
    alpha: Literal["adapt", "frozen", "random", "auto"] = "adapt"
    alpha_lr: float = Field(default=0.05, gt=0)  #: learning rate of alphas, by AdamW
    alpha_decay: float = Field(default=1e-3, ge=0)  #: weight decay of alphas
    alpha_every: int = Field(default=1, ge=1)  #: weight steps per alpha step
    alpha_from: float = Field(default=0.0, ge=0, lt=1)  #: share of a search's first steps in which alphas stay as they are
    relaxation: Annotated[SerializeAsAny[RelaxationSettings], ByName.of(RELAXATIONS)] = SoftmaxSettings(tau_start=0.2)
    alpha_gradient: Annotated[SerializeAsAny[AlphaGradientSettings], ByName.of(ALPHA_GRADIENTS)] = SingleLevelSettings()
    #: penalties on alphas, such as [{name: cost, weight: 1, budget: 0.5}]
    regularizers: tuple[Annotated[SerializeAsAny[RegularizerSettings], ByName.of(REGULARIZERS)], ...] = ()
    discretizer: Annotated[SerializeAsAny[DiscretizerSettings], ByName.of(DISCRETIZERS)] = ArgmaxSettings()
    head: Literal["closed_form", "meta_row"] = "closed_form"  #: initial rows: ridge regression, or the meta-learned row
    ridge_voxels: int = Field(default=3000, ge=16)  #: support voxels per scan

    @property
    def keeps_alphas(self) -> bool:
        """Whether alphas do not move: the architecture is the meta-learned one, or a random one."""
        return self.alpha not in ("adapt", "auto")

    def decided(self, body: Body) -> tuple[DartsSettings, str]:
        """Return these settings with ``auto`` replaced by adapt or frozen for a supernet with its alphas, and the reason."""
        if self.alpha != "auto":
            return self, "as set"
        alphas = {name.removeprefix("alphas."): row for name, row in body.alphas().items()}
        times = math.ceil(self.search_steps(self.steps) / self.alpha_every)
        search, reason = alpha_reason(body.rows(), alphas, self.alpha_lr, times, self.soft)
        return self.model_copy(update={"alpha": "adapt" if search else "frozen"}), reason

    def fixed(self, discrete: bool) -> DartsSettings:
        """Return these settings with alphas frozen, soft or ``discrete``."""
        end = ArgmaxSettings() if discrete else NoneSettings()
        return self.model_copy(update={"alpha": "frozen", "discretizer": end})

    def search_steps(self, steps: int) -> int:
        """Return how many of ``steps`` search an architecture."""
        return 0 if self.keeps_alphas else DISCRETIZERS.build(self.discretizer.name, self.discretizer).search_steps(steps)

    def extra_evaluations(self, steps: int) -> int:
        """Return the number of gradients of alphas and regularizers in ``steps``, for one copy of the weights."""
        part, search = ALPHA_GRADIENTS.build(self.alpha_gradient.name, self.alpha_gradient), self.search_steps(steps)
        more = sum(getattr(REGULARIZERS.build(given.name, given), "evaluations", 0) for given in self.regularizers)
        return part.evaluations * math.ceil(search / self.alpha_every) + more * search

    @property
    def soft(self) -> bool:
        """Whether the network stays soft to the end."""
        return self.discretizer.name == "none"

    @model_validator(mode="after")
    def _parts_fit(self) -> DartsSettings:
        """Refuse a relaxation whose alphas another part cannot move."""
        kind: Any = RELAXATIONS.entry(self.relaxation.name).factory
        if getattr(kind, "needs_bilevel", False) and self.alpha_gradient.name == "single_level" and not self.keeps_alphas:
            raise ValueError(
                f"relaxation {self.relaxation.name} has alpha steps of its own, which alpha_gradient single_level has not. "
                "Set alpha_gradient.name to first_order."
            )
        return self

    @model_validator(mode="after")
    def _discretizer_reads_what_moves(self) -> DartsSettings:
        kind: Any = RELAXATIONS.entry(self.relaxation.name).factory
        if not getattr(kind, "moves_alphas", True) and self.discretizer.name == "argmax" and not self.keeps_alphas:
            raise ValueError(
                f"relaxation {self.relaxation.name} moves no alphas, so discretizer argmax has nothing to read. "
                "Set discretizer.name to evolution."
            )
        return self

    @model_validator(mode="after")
    def _random_is_discrete(self) -> DartsSettings:
        if self.alpha == "random" and self.soft:
            raise ValueError("alpha random draws a discrete architecture: it needs a discretizer")
        return self

    @model_validator(mode="after")
    def _regularizers_fit(self) -> DartsSettings:
        if not self.keeps_alphas and (reason := self.reason_against()):
            raise ValueError(reason)
        return self

    def reason_against(self, rows: Mapping[str, Row] | None = None, space: SpaceSettings | None = None) -> str:
        """Return why the search is impossible, for a space of ``rows`` if they are known, and what to do; empty if it is possible."""
        kind: Any = RELAXATIONS.entry(self.relaxation.name).factory
        takes = getattr(kind, "takes", RELAXED_ROWS)
        if rows and not any(row.type in takes for row in rows.values()):
            types = ", ".join(sorted({row.type for row in rows.values()}))
            return (
                f"relaxation {self.relaxation.name} weighs rows of type {', '.join(sorted(takes))}, and all {len(rows)} rows of this "
                f"space are {types}: they are drawn, never mixed. Set alpha to frozen; meta-training draws such rows by itself."
            )
        parts = self._regularizer_parts()
        relaxation = RELAXATIONS.build(self.relaxation.name, self.relaxation)
        bilevel = ALPHA_GRADIENTS.build(self.alpha_gradient.name, self.alpha_gradient).bilevel
        return reason_against(parts, self, relaxation, bilevel, rows, space)

    def _regularizer_parts(self) -> list[Regularizer]:
        return [REGULARIZERS.build(part.name, part) for part in self.regularizers]

    @model_validator(mode="after")
    def _warns_of_ignored_values(self) -> DartsSettings:
        """Log a warning for each non-default value that has no effect."""
        only_head = self.stepped == "head"
        joint, soft_search = self.alpha_gradient.name == "single_level", self.soft and not self.keeps_alphas
        ignored: dict[str, Any] = {
            "lr": only_head and not self.alpha_gradient.uses_rate and "stepped is head",
            "kernel_lr": "stepped is head" if only_head else self.optimizer != "muon" and "optimizer is not muon",
            "early_batch": not self.early and "early is 0",
            "coarse": not self.early and "early is 0",
            "early": not (self.coarse or self.early_batch) and "coarse is false and early_batch is 0",
            "cooldown": self.lr_decay != "cooldown" and f"lr_decay is {self.lr_decay}",
            "regularizers": self.keeps_alphas and f"alpha is {self.alpha}",
            "average": self.average and soft_search and "only steps after the switch to a discrete network are averaged",
        }
        for name, why in ignored.items():
            if why and getattr(self, name) != type(self).model_fields[name].default:
                log.warning("setting %s %s has no effect: %s", name, getattr(self, name), why)
        for name, why in [] if self.keeps_alphas else without_effect(self._regularizer_parts(), self):
            log.warning("regularizer %s has no effect: %s", name, why)
        if (joint or self.soft) and self.relaxation.prune != type(self.relaxation).model_fields["prune"].default:
            why = "alpha_gradient is single_level" if joint else "discretizer is none"
            log.warning("setting relaxation.prune %s has no effect: %s", self.relaxation.prune, why)
        return self
