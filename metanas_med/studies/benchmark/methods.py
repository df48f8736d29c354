"""The methods of the benchmark in one table: what each starts from, how it adapts, what it may use.

All of them adapt with the same settings (steps, batches, rates, augmentation, view), except for what the table says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ...engine.phases import Phase, features_around
from ...engine.settings import Settings
from ...errors import ConfigError, suggest
from ...l2l import has_learn2learn
from ...learner import SgdSettings
from ...meta import FomamlSettings
from ...pretext import scan_pretexts
from ...space import SpaceSettings
from .nnunet import has_nnunet


@dataclass(frozen=True)
class Method:
    """``pretraining``: a key of ``PRETRAININGS``, or None for fresh weights.

    ``learner``: settings of the adaptation that differ.
    """

    about: str
    pretraining: str | None
    learner: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)  #: settings of the plan that differ
    fixed: bool = False  #: the plain U-Net with as many multiply-adds as the architecture that meta-training found
    search: bool = False  #: alpha is adapted; a bilevel search takes additional gradients
    several_seeds: bool = False
    times: float = 0.0  #: if not 0: as many steps as fit into the time of this many adaptations of ``reference`` with 20 steps
    reference: str = "metanas"  #: the method whose time is meant
    minutes: float = 0.0  #: if not 0: as many steps as fit into this time
    network: str = ""  #: a network of MONAI, or nnU-Net, instead of ours
    only_shots: tuple[int, ...] = ()  #: only these shots, because the method is expensive
    one_draw: bool = False
    one_group: bool = False  #: only the first test group
    plain: bool = False  #: without our improvements that do not need alpha; listed in a table of its own
    alone: bool = False  #: needs all cores
    #: first learns without labels. ``site``: from scans of patients in neither support nor query; ``query``: from the scored
    #: scans themselves, which makes the method transductive
    unlabelled: Literal["", "site", "query"] = ""
    pretexts: tuple[str, ...] = ()  #: tasks of these label-free steps; empty: those of the settings
    development: bool = False  #: only on development groups, to choose a setting
    label_free: bool = False  #: measures the value of unlabelled scans; listed in a section of its own

    @property
    def timed(self) -> bool:
        """Return whether the method has a time budget instead of a number of steps."""
        return bool(self.times or self.minutes)

    def missing(self) -> str:
        """Return which requirement of the method is not installed; empty where all are."""
        if self.network == "nnunet" and not has_nnunet():
            return "nnU-Net is not installed (extra: peers)"
        return "learn2learn is not installed" if self.pretraining == "fomaml" and not has_learn2learn() else ""


#: fields that do not change a cell
_WORDS = ("about", "plain", "label_free")
_FROZEN = {"alpha": "frozen"}
_ROW = {"head": "meta_row"}
#: as published: no closed form, no mean of weights; with ``_ALL_PIECES`` small pieces of predictions are kept
_AS_PUBLISHED = {**_ROW, "average": 0.0}
_ALL_PIECES = {"drop_small": False}
_NNUNET: dict[str, Any] = {"network": "nnunet", "only_shots": (5,), "one_draw": True, "alone": True}
#: MONAI's networks train as in its own examples; the closed form and Muon's split of kernels and head need our network
_PEER = {**_AS_PUBLISHED, "optimizer": "adam"}
_PLAIN: dict[str, Any] = {"plan": _ALL_PIECES, "fixed": True, "plain": True}
_LABEL_FREE: dict[str, Any] = {"search": True, "label_free": True}
_MIXED = "metanas-mixed"

METHODS: dict[str, Method] = {
    "metanas": Method("alpha and weights meta-learned, alpha adapted", "metanas", search=True, several_seeds=True),
    "metanas-frozen": Method("alpha stays as meta-learned", "metanas", _FROZEN, several_seeds=True),
    "metanas-random": Method("a random architecture of the same cost, meta-learned weights", "metanas", {"alpha": "random"}),
    "reptile": Method(
        "a fixed U-Net, meta-trained like metanas without alpha (features through the closed form, alternating with Reptile)",
        "reptile",
        fixed=True,
        several_seeds=True,
    ),
    "joint": Method("the fixed U-Net, pretrained on all training organs together", "joint", fixed=True, several_seeds=True),
    "scratch": Method("the fixed U-Net from fresh weights", None, fixed=True),
    "scratch-10x": Method("scratch, for the time of ten adaptations", None, fixed=True, times=10.0),
    "metanas-10x": Method("metanas-frozen, for the time of ten adaptations", "metanas", _FROZEN, times=10.0),
    "joint-10x": Method("joint, for the time of ten adaptations", "joint", fixed=True, times=10.0),
    "nnunet-10x": Method("nnU-Net, for the time of ten adaptations", None, times=10.0, **_NNUNET),
    "nnunet-30min": Method("nnU-Net, for 30 minutes", None, minutes=30.0, **_NNUNET),
    "fomaml": Method("the fixed U-Net, first-order MAML (learn2learn)", "fomaml", fixed=True),
    "segresnet": Method(
        "MONAI's SegResNet from fresh weights, for the time of ten adaptations",
        None,
        _PEER,
        _ALL_PIECES,
        network="segresnet",
        times=10.0,
        one_group=True,
    ),
    "dints": Method(
        "MONAI's DiNTS, every edge of its grid, from fresh weights, for the time of ten adaptations",
        None,
        _PEER,
        _ALL_PIECES,
        network="dints",
        times=10.0,
        one_group=True,
    ),
    "reptile-plain": Method(
        "Reptile as published: no closed-form head, no made-up tasks", "reptile-plain", _AS_PUBLISHED, **_PLAIN
    ),
    "joint-plain": Method(
        "joint pretraining as published: no closed-form head, no made-up tasks", "joint-plain", _AS_PUBLISHED, **_PLAIN
    ),
    "scratch-plain": Method("fresh weights without the closed-form head", None, _AS_PUBLISHED, **_PLAIN),
    "metanas-longer": Method(
        "metanas, for the time that metanas-unlabelled takes", "metanas", times=1.0, reference="metanas-unlabelled", **_LABEL_FREE
    ),
    "metanas-unlabelled": Method(
        "metanas, after label-free steps on the site's scans of patients in neither support nor query",
        "metanas",
        unlabelled="site",
        several_seeds=True,
        **_LABEL_FREE,
    ),
    "metanas-transductive": Method(
        "the same on the query scans themselves: transductive, because it has seen the images that it is scored on",
        "metanas",
        unlabelled="query",
        several_seeds=True,
        **_LABEL_FREE,
    ),
    _MIXED: Method(
        "metanas, with label-free tasks of the training data sets in half of its meta-training",
        _MIXED,
        several_seeds=True,
        **_LABEL_FREE,
    ),
    f"{_MIXED}-unlabelled": Method(
        "both: metanas-mixed's meta-training, and label-free steps on the site's scans",
        _MIXED,
        unlabelled="site",
        several_seeds=True,
        **_LABEL_FREE,
    ),
    # the ablation that chooses the default of ``pretext.names``
    **{
        f"metanas-unlabelled-{name}": Method(
            f"metanas-unlabelled with the pretext task {name}",
            "metanas",
            unlabelled="site",
            pretexts=(name,),
            development=True,
            **_LABEL_FREE,
        )
        for name in scan_pretexts()
    },
}


def method_named(name: str) -> Method:
    """Return a method; ConfigError with the nearest name for an unknown one."""
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; {suggest(name, METHODS)}")
    return METHODS[name]


def _with(settings: Settings, phases: tuple[Phase, ...] = (), **sections: Mapping[str, Any]) -> Settings:
    changed: dict[str, Any] = {
        name: getattr(settings, name).model_copy(update=dict(changes)) for name, changes in sections.items()
    }
    return settings.model_copy(update=changed | ({"phases": phases} if phases else {}))


def _fomaml(settings: Settings) -> Settings:
    """Return the settings with FOMAML as meta learner and plain gradient steps as task learner."""
    learner = {"name": "sgd", "lr": 0.05, "steps": 3, "batch": settings.learner.model_dump()["batch"]}
    meta = {key: value for key, value in settings.meta.model_dump().items() if key in FomamlSettings.model_fields}
    return settings.model_copy(
        update={
            "learner": SgdSettings.model_validate(learner),
            "meta": FomamlSettings.model_validate({**meta, "name": "fomaml", "beta_weights": 0.05}),
        }
    )


_FEATURES_ALONE, _TASKS_ALONE = features_around(1.0, 0.0), features_around(0.0, 0.0)
_REAL_SCANS = {"synthetic": 0.0, "recast": 0.0}

#: Meta-training by kind: the recipe's settings -> the kind's own. All kinds but ``SEARCHES`` use the space of the fixed U-Net.
PRETRAININGS: dict[str, Callable[[Settings], Settings]] = {
    "metanas": lambda s: s,
    _MIXED: lambda s: _with(s, pretext={"mix": 0.5}),
    "reptile": lambda s: _with(s, features={"alpha_lr": 0.0}),
    # every recast task is new and would have no head rows of its own; without recasting most episodes train rows
    "joint": lambda s: _with(s, tasks={"recast": 0.0}, phases=_FEATURES_ALONE, features={"head": "trained", "alpha_lr": 0.0}),
    # inner steps are plain gradient steps, which need a larger rate than Adam; the outer step is the query gradient itself
    "fomaml": lambda s: _with(_fomaml(s), phases=_TASKS_ALONE),
    "reptile-plain": lambda s: _with(s, phases=_TASKS_ALONE, tasks=_REAL_SCANS, learner=_ROW, meta={"beta_weights": 1.0}),
    "joint-plain": lambda s: _with(
        s,
        phases=_FEATURES_ALONE,
        tasks=_REAL_SCANS,
        learner=_ROW,
        features={
            "head": "trained",
            "alpha_lr": 0.0,
            "diversity": 0.0,
            "optimizer": "adam",
            "solve_new": False,
        },
    ),
}

#: the kinds that search an architecture
SEARCHES = ("metanas", _MIXED)


def pretraining_settings(kind: str, settings: Settings, space: SpaceSettings, seed: int, hold_out: tuple[str, ...]) -> Settings:
    """Return the settings of one meta-training: the recipe changed for ``kind``, in ``space``, without ``hold_out``."""
    own = PRETRAININGS[kind](settings)
    tasks = own.tasks.model_copy(update={"hold_out": hold_out})
    return own.model_copy(update={"tasks": tasks, "space": space, "seed": settings.seed + seed, "threads": 1})


def default_entry() -> dict[str, Any]:
    """Return the entry in ``frozen_table`` of a method with all defaults."""
    return {k: v for k, v in asdict(Method("", None)).items() if k not in _WORDS}


def frozen_table() -> dict[str, Any]:
    """Return everything in this file that changes a cell, as JSON values; it is part of the frozen settings."""
    neutral = Settings()
    changed = {kind: make(neutral) for kind, make in PRETRAININGS.items()}
    kinds = {kind: made.model_dump(mode="json", exclude_defaults=True) for kind, made in changed.items()}
    methods = {name: {k: v for k, v in asdict(method).items() if k not in _WORDS} for name, method in METHODS.items()}
    return {"methods": methods, "pretrainings": kinds}
