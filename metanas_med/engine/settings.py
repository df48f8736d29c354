"""All settings of a run: the sections of its parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, SerializeAsAny, model_validator

from .. import config
from ..config import ByName, Presets, Section
from ..data.settings import PlanSettings
from ..learner import LEARNERS, DartsSettings, FeatureSettings, LearnerSettings
from ..learner.alpha_gradients import FirstOrderSettings
from ..learner.discretizers import NoneSettings
from ..learner.relaxations import SoftmaxSettings
from ..meta import METAS, MetaSettings, ReptileSettings
from ..pretext.settings import PretextSettings
from ..space import SPACES, SpaceSettings, UNetSupernetSettings, get_space
from ..tasks.settings import TaskSettings
from ..tracking.settings import TrackSettings
from .learner_presets import read_learner_preset
from .phases import Phase, Recipe, kinds_of

log = logging.getLogger(__name__)
SettingsT = TypeVar("SettingsT", bound=Section)

#: the task learner of meta-training: a short soft search with alphas judged on half of the scans
_META_LEARNER = DartsSettings(
    steps=10,
    batch=2,
    optimizer="adam",
    lr=1e-3,
    lr_decay="none",
    average=0.0,
    alpha_lr=0.1,
    alpha_every=2,
    relaxation=SoftmaxSettings(tau_end=0.15),
    alpha_gradient=FirstOrderSettings(cross_fit=False),
    discretizer=NoneSettings(),
)


class Settings(Section):
    """All settings of a run; the defaults are the recommended recipe."""

    seed: int = Field(default=0, ge=0)  #: seed of weights, task draws and patches
    device: str = "auto"  #: auto (CUDA if available), cpu, cuda or cuda:N
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  #: of convolutions; auto: bfloat16 if the device supports it
    threads: int = Field(default=0, ge=0)  #: number of torch threads; 0: torch's default
    cache: str = "cache"  #: folder written by metanas-med prepare
    space: Annotated[SerializeAsAny[SpaceSettings], ByName.of(SPACES)] = UNetSupernetSettings()
    tasks: TaskSettings = TaskSettings()
    plan: PlanSettings = PlanSettings()
    #: of meta-training: values, or the name of a preset, such as gdas
    learner: Annotated[SerializeAsAny[LearnerSettings], ByName.of(LEARNERS), Presets(read_learner_preset)] = _META_LEARNER
    #: of adapt: values, or the name of a preset
    adapt: Annotated[SerializeAsAny[LearnerSettings], ByName.of(LEARNERS), Presets(read_learner_preset)] = DartsSettings(
        alpha="auto"
    )
    meta: Annotated[SerializeAsAny[MetaSettings], ByName.of(METAS)] = ReptileSettings()
    features: FeatureSettings = FeatureSettings()
    phases: Recipe = (Phase(share=1, mix={"features": 1, "synthesis": 1}),)  #: the recipe: what iterations do, phase after phase
    pretext: PretextSettings = PretextSettings()
    track: TrackSettings = TrackSettings()

    @model_validator(mode="after")
    def _warns_of_ignored_synthesis(self) -> Settings:
        """Log a warning for settings of made-up volumes if there are none."""
        contrast, made_up = "synthesis" in kinds_of(self.phases), "synthesis" in self.pretext.names
        if not contrast and self.features.contrast != FeatureSettings().contrast:
            log.warning("features.contrast has no effect: no phase has iterations of synthesis")
        if not contrast and not made_up and self.pretext.synthesis != PretextSettings().synthesis:
            log.warning("pretext.synthesis has no effect: neither a phase nor pretext.names has synthesis")
        return self

    @model_validator(mode="after")
    def _learners_take_the_space(self) -> Settings:
        """Refuse a space that cannot be trained, and a learner that cannot weigh its rows: before any data are read."""
        space = get_space(self.space)
        rows, own = space.rows(), getattr(space, "reason_against_training", None)
        if own is not None and (reason := own()):
            raise ValueError(f"space: {reason}")
        for name, learner in (("learner", self.learner), ("adapt", self.adapt)):
            reason = learner.reason_against(rows, self.space)
            if reason and getattr(learner, "alpha", "") == "adapt":
                raise ValueError(f"{name}: {reason}")
        return self

    @model_validator(mode="after")
    def _warns_of_ignored_alphas(self) -> Settings:
        """Log a warning for alpha settings that have no effect on feature steps."""
        if self.features.alpha_lr and kinds_of(self.phases) != {"tasks"}:
            given = self.features.alpha_lr != FeatureSettings.model_fields["alpha_lr"].default
            if self.learner.keeps_alphas and given:
                log.warning("setting features.alpha_lr %s has no effect: learner.alpha is not adapt", self.features.alpha_lr)
            if getattr(self.learner, "regularizers", ()):
                log.warning("learner.regularizers do not reach the alphas of feature steps")
        return self


def load_settings(path: Path | str | None = None, overrides: Sequence[str] = (), base: type[SettingsT] = Settings) -> SettingsT:
    """Return the settings of a YAML file (or the defaults) after ``["--section.key", "value", ...]``.

    Raises ConfigError for a missing or malformed file, an unknown key (with the closest one) or a value out of bounds.
    """
    return config.load_settings(path, overrides, base)
