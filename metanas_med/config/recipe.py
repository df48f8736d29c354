"""The sections of a run: tasks, plan, learners, meta learner, features, pretext, tracking (the whole: ``engine/settings.py``)."""

from __future__ import annotations

import logging
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .section import Section

log = logging.getLogger(__name__)


class TaskSettings(Section):
    """Which organs train, and what an episode is."""

    distribution: str = ""  #: name or path of a distribution YAML; empty: every data set in the cache
    hold_out: tuple[str, ...] = ()  #: groups or data sets left out, added to the distribution's own
    validation: tuple[str, ...] = ()  #: data sets whose tasks only validate
    shots: tuple[int, ...] = (1, 2, 5)  #: support sizes drawn in meta-training
    num_query: int = Field(default=1, ge=1)  #: query scans of a validation episode
    unions: bool = True  #: also draw all labels of a data set at once, and their union
    synthetic: float = Field(
        default=0.0, ge=0, le=1
    )  #: share of training episodes that are made up: random label maps and contrasts
    recast: float = Field(
        default=0.0, ge=0, le=1
    )  #: share of the others whose scans all get one new intensity curve and the same flips


class PlanSettings(Section):
    """How a plan is made from the support scans."""

    view_voxels: int = Field(default=40 * 40 * 40, ge=64)  #: voxels of a training view
    adapt_voxels: int = Field(
        default=0, ge=0
    )  #: of a view in adapt, which is one task long and can afford larger ones; 0: as view_voxels
    margin: float = Field(default=1.6, ge=1.0, le=8.0)  #: view extent / organ extent that is aimed at
    thickness: float = Field(
        default=2.0, ge=0.0, le=16.0
    )  #: voxels across the thinnest organ: where views that hold all organs leave it fewer, they are finer and show a part; 0: never
    augment: bool = True  #: small affine maps (of thick slices, mostly within them) and intensity changes; no flips
    foreground: float = Field(default=0.7, ge=0.0, le=1.0)  #: share of patches centred on an organ voxel
    drop_small: bool = True  #: predictions drop small pieces of organs that all support scans, three at least, hold in one piece

    @field_validator("adapt_voxels")
    @classmethod
    def _is_none_or_enough(cls, value: int) -> int:
        if 0 < value < 64:
            raise ValueError("expected 0 or at least 64")
        return value

    def of_adapt(self) -> PlanSettings:
        """Return these settings with the size of views that ``adapt`` takes."""
        return self.model_copy(update={"view_voxels": self.adapt_voxels or self.view_voxels, "adapt_voxels": 0})


#: settings of a task learner that FOMAML, which is one, goes by
_FOMAML_GOES_BY = {"name", "steps", "batch", "lr", "clip", "alpha", "tau_start", "head", "ridge_voxels", "loss"}


class LearnerSettings(Section):
    """The task learner: one run on one support set."""

    name: str = "darts"  #: a registered task learner
    steps: int = Field(default=20, ge=0)  #: of the alpha phase and the discrete phase together
    batch: int = Field(default=2, ge=1)  #: patches a step
    optimizer: Literal["adam", "sgd", "muon"] = (
        "adam"  #: of weights and task parameters (muon: kernels by Muon, the rest by Adam); alphas always have Adam
    )
    lr: float = Field(default=2e-3, gt=0)  #: weights
    kernel_lr: float = Field(default=2e-2, gt=0)  #: kernels, where Muon steps them: five times the root mean square of a step
    head_lr: float = Field(default=2e-3, gt=0)  #: task parameters and head rows
    lr_decay: Literal["none", "cosine", "cooldown"] = (
        "cosine"  #: within one run: a cosine to a twentieth, or constant rates that fall linearly over the last steps
    )
    cooldown: float = Field(default=0.3, gt=0, le=1)  #: share of the steps over which the rates of a cooldown fall
    average: float = Field(
        default=0.0, ge=0, lt=1
    )  #: share of the steps, the last ones, whose mean weights are the result; none of before the switch
    beta1: float = Field(default=0.9, ge=0, lt=1)  #: of Adam; momentum of SGD
    beta2: float = Field(default=0.99, ge=0, lt=1)  #: of Adam
    weight_decay: float = Field(default=0.0, ge=0)  #: of weights and task parameters
    clip: float = Field(default=1.0, gt=0)  #: largest gradient norm
    alpha: Literal["adapt", "frozen", "random"] = "adapt"  #: search; the meta-learned architecture; a random one of equal cost
    alpha_lr: float = Field(default=0.05, gt=0)  #: of the architecture
    alpha_decay: float = Field(default=1e-3, ge=0)  #: weight decay of the architecture
    alpha_every: int = Field(default=1, ge=1)  #: weight steps from one alpha step to the next
    bilevel: bool = True  #: alphas step on scans and patches of their own; false: with the weights, from the same backward pass
    second_order: bool = False  #: alpha's gradient through one weight step: four times the cost
    cross_fit: bool = True  #: of a bilevel search: two weight copies on two halves (4 scans and more)
    alpha_share: float = Field(
        default=0.5, gt=0, lt=1
    )  #: of the scans that judge alphas, one at least; cross-fitted halves are halves
    alpha_phase: float = Field(default=0.5, ge=0, le=1)  #: share of the steps after which the genotype is read off
    alpha_steps: int = Field(
        default=10, ge=0
    )  #: at most so many steps before it is read off, however long the run; 0: no such limit
    discretize: bool = True  #: read the genotype off at the end of the alpha phase
    tau_start: float = Field(default=1.0, gt=0)  #: temperature of the softmax over alphas at the first step
    tau_end: float = Field(default=0.1, gt=0)  #: and at the end of the alpha phase
    prune: float = Field(default=0.05, ge=0, lt=1)  #: paths below this probability are not run; single-level steps run all
    cost_weight: float = Field(default=0.0, ge=0)  #: of the penalty on multiply-adds above the budget
    cost_budget: float = Field(default=1.0, gt=0)  #: share of the expected multiply-adds at uniform alpha
    head: Literal["closed_form", "meta_row"] = "closed_form"  #: start of its rows: ridge regression, or the meta-learned row
    ridge_voxels: int = Field(default=3000, ge=16)  #: support voxels a scan
    loss: Literal["dice_ce"] = "dice_ce"  #: Dice plus cross-entropy

    @model_validator(mode="before")
    @classmethod
    def _forgets_what_was_off(cls, values: Any) -> Any:
        # states and models of before it went hold a setting that did nothing at 0; with another value they would mean something else
        if isinstance(values, dict) and values.get("decay_steps") == 0:
            return {name: value for name, value in values.items() if name != "decay_steps"}
        return values

    @model_validator(mode="after")
    def _random_is_discrete(self) -> LearnerSettings:
        if self.alpha == "random" and not self.discretize:
            raise ValueError("alpha random draws a discrete architecture: it needs discretize")
        return self

    @model_validator(mode="after")
    def _says_what_is_ignored(self) -> LearnerSettings:
        default = {name: field.default for name, field in type(self).model_fields.items()}
        ignored = {
            "kernel_lr": self.optimizer != "muon" and "optimizer is not muon",
            "alpha_share": (not self.bilevel and "bilevel is off") or (self.cross_fit and "cross_fit halves the scans"),
            "second_order": not self.bilevel and "bilevel is off",
            "average": self.alpha == "adapt" and not self.discretize and "every step is before a switch that never comes",
            "prune": (not self.bilevel and "bilevel is off") or (not self.discretize and "discretize is off"),
            "alpha_phase": not self.discretize and "discretize is off: all steps search",
            "alpha_steps": not self.discretize and "discretize is off: all steps search",
            "cooldown": self.lr_decay != "cooldown" and f"lr_decay is {self.lr_decay}",
        }
        if self.name == "fomaml":
            ignored |= {
                name: "fomaml takes plain gradient steps at lr, and alphas stay" for name in default.keys() - _FOMAML_GOES_BY
            }
        for name, why in ignored.items():
            if why and getattr(self, name) != default[name]:
                log.warning("setting %s %s has no effect: %s", name, getattr(self, name), why)
        return self


class MetaSettings(Section):
    """The meta learner and its loop."""

    name: str = "reptile"  #: a registered meta learner
    iterations: int = Field(default=500, ge=0)  #: meta-steps in all
    batch: int = Field(default=4, ge=1)  #: tasks an iteration
    beta_weights: float = Field(default=1.0, gt=0)  #: step from the meta-weights to the mean of the adapted ones
    beta_alphas: float = Field(default=1.0, gt=0)  #: the same of the alphas, centred by row
    final_beta: float = Field(default=0.1, ge=0, le=1)  #: rates decay linearly to this share
    warmup: float = Field(default=0.0, ge=0, le=1)  #: share of the iterations with alpha frozen
    commit: float = Field(
        default=1.0, ge=0, le=1
    )  #: share of the iterations after which only the discrete network learns; 1: never
    commit_margin: float = Field(
        default=1.0, gt=0
    )  #: lead that each row's first choice then gets, so that noise does not undo it
    max_seconds: float = Field(default=0.0, ge=0)  #: stop after this time; 0: never
    validate_every: int = Field(default=50, ge=1)  #: iterations
    num_validation: int = Field(default=4, ge=0)  #: fixed validation episodes
    checkpoint_every: int = Field(default=25, ge=1)  #: iterations
    max_bad_tasks: int = Field(default=20, ge=0)  #: non-finite tasks tolerated in a row of 100


class FeatureSettings(Section):
    """Steps of meta-training on the features of the shared network.

    ``closed_form``: the head is solved on some scans and its loss on others trains the features through it (R2-D2).
    ``trained``: every organ task keeps rows of its own, trained together with the features: joint, multi-task pretraining.
    """

    head: Literal["closed_form", "trained"] = "closed_form"  #: whose loss trains the features
    first: float = Field(default=0.0, ge=0, le=1)  #: share of the iterations, at their start, that are such episodes
    last: float = Field(default=0.0, ge=0, le=1)  #: share at their end; after the commitment they train the discrete network
    steps: int = Field(default=3, ge=1)  #: gradient steps an episode
    views: int = Field(default=4, ge=2, multiple_of=2)  #: patches a step; rows solved on one half are judged on the other
    lr: float = Field(
        default=1e-3, gt=0
    )  #: of weights, by a cosine to a hundredth in the last share; its optimizer lives as long as the run
    optimizer: Literal["adam", "muon"] = "adam"  #: of weights (muon: kernels by Muon, the rest by Adam); alphas always have Adam
    kernel_lr: float = Field(default=2e-2, gt=0)  #: kernels, where Muon steps them; it falls as lr does
    alpha_lr: float = Field(default=0.0, ge=0)  #: of the architecture, until the commitment; 0: alphas stay as they are
    alpha_every: int = Field(
        default=3, ge=2
    )  #: one step in so many moves the alphas, on patches of its own, instead of the weights
    beta1: float = Field(default=0.9, ge=0, lt=1)  #: of Adam; momentum of Muon
    beta2: float = Field(default=0.99, ge=0, lt=1)  #: of Adam
    clip: float = Field(default=1.0, gt=0)  #: largest gradient norm
    voxels: int = Field(default=1000, ge=16)  #: voxels of a patch that the rows are solved on
    strength: float = Field(default=1e-2, gt=0)  #: of the ridge
    diversity: float = Field(default=0.0, ge=0)  #: weight of the penalty on correlated features

    @model_validator(mode="after")
    def _kernel_lr_is_used(self) -> FeatureSettings:
        if self.optimizer != "muon" and self.kernel_lr != type(self).model_fields["kernel_lr"].default:
            log.warning("setting kernel_lr %s has no effect: optimizer is not muon", self.kernel_lr)
        return self

    @model_validator(mode="after")
    def _alphas_have_a_turn(self) -> FeatureSettings:
        if self.alpha_lr and self.steps < self.alpha_every:
            raise ValueError(f"alphas would never move: steps {self.steps} is under alpha_every {self.alpha_every}")
        return self


class PretextSettings(Section):
    """Label-free tasks: episodes whose labels are made from unlabelled scans (docs/pretext.md)."""

    mix: float = Field(default=0.0, ge=0, le=1)  #: share of training episodes that are label-free; 1: no label is read at all
    names: tuple[str, ...] = ("colorization",)  #: registered pretexts; an episode draws one of them
    scans: int = Field(default=4, ge=1)  #: scans of an episode, each of another patient
    classes: int = Field(default=4, ge=2, le=8)  #: classes of an episode of rotation or random-labels, one a tile at most
    bins: int = Field(default=4, ge=2, le=16)  #: intensity bins of the restoring pretexts
    zoom: float = Field(
        default=0.5, gt=0, le=1
    )  #: least share of a scan's extent that a view shows along each axis; drawn between it and 1
    lr: float = Field(default=1e-3, gt=0)  #: of weights in adapt --unlabelled, by a cosine to a hundredth
    alpha_lr: float = Field(default=0.02, ge=0)  #: of the architecture there; 0: alphas stay as they are
    steps: int = Field(default=60, ge=1)  #: gradient steps there, weights and alphas together


class TrackSettings(Section):
    """Where the run is mirrored; local files are always written."""

    wandb: bool = False  #: mirror the run to Weights & Biases (--track wandb)
    project: str = "metanas-med"  #: its project there
