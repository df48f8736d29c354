"""The methods of the benchmark in one table: what each starts from, how it adapts, what it may not use. Nobody is tuned in secret.

All of them adapt by the same settings (steps, batches, rates, augmentation, view), but for what the table says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...config import Settings, SpaceSettings
from ...errors import ConfigError, suggest
from ...l2l import has_learn2learn
from .nnunet import has_nnunet


@dataclass(frozen=True)
class Method:
    """``pretraining``: a key of ``PRETRAININGS``, or None for fresh weights; ``learner``: settings of the adaptation that differ."""

    about: str
    pretraining: str | None
    learner: Mapping[str, Any] = field(default_factory=dict)
    fixed: bool = False  #: the plain U-Net of as many multiply-adds as the architecture that meta-training found
    search: bool = False  #: alpha's gradients come on top of the steps
    several_seeds: bool = False
    budget: float = 0.0  #: if not 0: as many steps as fit into the time of so many adaptations of ``metanas`` in 20 steps
    minutes: float = 0.0  #: if not 0: as many steps as fit into this time
    network: str = ""  #: a network of MONAI, or nnU-Net, in place of ours
    only_shots: tuple[int, ...] = ()  #: of a dear method: these alone
    one_draw: bool = False
    one_group: bool = False  #: the first of the test groups

    @property
    def time(self) -> str:
        """Return the budget of time in words; empty where steps are given."""
        return f"x{self.budget:g}" if self.budget else f"{self.minutes:g} min" if self.minutes else ""

    def missing(self) -> str:
        """Return what is not installed here that the method needs; empty where nothing is."""
        if self.network == "nnunet" and not has_nnunet():
            return "nnU-Net is not installed (extra: peers)"
        return "learn2learn is not installed" if self.pretraining == "fomaml" and not has_learn2learn() else ""


_FROZEN = {"alpha": "frozen"}
_PLAIN = {"head": "meta_row"}

METHODS: dict[str, Method] = {
    "metanas": Method("alpha and weights meta-learned, alpha adapted", "metanas", search=True, several_seeds=True),
    "metanas-frozen": Method("alpha kept as it was meta-learned", "metanas", _FROZEN, several_seeds=True),
    "metanas-random": Method("a random architecture of the same cost, meta-learned weights", "metanas", {"alpha": "random"}),
    "reptile": Method("a fixed U-Net, meta-trained by the same recipe without alpha", "reptile", fixed=True, several_seeds=True),
    "joint": Method("the fixed U-Net, pretrained on all training organs together", "joint", fixed=True, several_seeds=True),
    "scratch": Method("the fixed U-Net from fresh weights", None, fixed=True),
    "scratch-10x": Method("the same, for the time of ten adaptations", None, fixed=True, budget=10.0),
    "nnunet-10x": Method(
        "nnU-Net, for the time of ten adaptations", None, network="nnunet", budget=10.0, only_shots=(5,), one_draw=True
    ),
    "nnunet-30min": Method("nnU-Net, for 30 minutes", None, network="nnunet", minutes=30.0, only_shots=(5,), one_draw=True),
    "fomaml": Method("the fixed U-Net, first-order MAML (learn2learn)", "fomaml", fixed=True),
    "segresnet": Method(
        "MONAI's SegResNet from fresh weights, for the time of ten adaptations",
        None,
        _PLAIN,
        network="segresnet",
        budget=10.0,
        one_group=True,
    ),
    "reptile-plain": Method("Reptile as published: no closed-form head, no made-up tasks", "reptile-plain", _PLAIN, fixed=True),
    "joint-plain": Method(
        "joint pretraining as published: no closed-form head, no made-up tasks", "joint-plain", _PLAIN, fixed=True
    ),
    "scratch-plain": Method("fresh weights without the closed-form head", None, _PLAIN, fixed=True),
}


def method_named(name: str) -> Method:
    """Return a method; ConfigError, with the near name, for one that is unknown."""
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; {suggest(name, METHODS)}")
    return METHODS[name]


def _with(settings: Settings, **sections: Mapping[str, Any]) -> Settings:
    return settings.model_copy(
        update={name: getattr(settings, name).model_copy(update=dict(changes)) for name, changes in sections.items()}
    )


_REAL_SCANS = {"synthetic": 0.0, "recast": 0.0}

#: Meta-training by kind: the recipe's settings -> the kind's own. The space of all but ``metanas`` is the fixed U-Net's.
PRETRAININGS: dict[str, Callable[[Settings], Settings]] = {
    "metanas": lambda s: s,
    "reptile": lambda s: _with(s, features={"alpha_lr": 0.0}),
    "joint": lambda s: _with(s, features={"head": "trained", "first": 1.0, "last": 0.0, "alpha_lr": 0.0}),
    # inner steps are plain gradient steps, which want a larger rate than Adam's; the outer step is the query gradient itself
    "fomaml": lambda s: _with(
        s, learner={"name": "fomaml", "lr": 0.05, "steps": 3}, features={"first": 0.0, "last": 0.0}, meta={"beta_weights": 0.05}
    ),
    "reptile-plain": lambda s: _with(
        s, tasks=_REAL_SCANS, learner=_PLAIN, features={"first": 0.0, "last": 0.0}, meta={"beta_weights": 1.0}
    ),
    "joint-plain": lambda s: _with(
        s, tasks=_REAL_SCANS, learner=_PLAIN, features={"head": "trained", "first": 1.0, "last": 0.0, "alpha_lr": 0.0}
    ),
}


def pretraining_settings(kind: str, settings: Settings, space: SpaceSettings, seed: int, hold_out: tuple[str, ...]) -> Settings:
    """Return the settings of one meta-training: the recipe, changed for ``kind``, in ``space``, without ``hold_out``."""
    own = PRETRAININGS[kind](settings)
    tasks = own.tasks.model_copy(update={"hold_out": hold_out})
    return own.model_copy(update={"tasks": tasks, "space": space, "seed": settings.seed + seed, "threads": 1})
