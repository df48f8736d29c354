"""The settings of a whole run, and how they are read from a file and the command line."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ..config import (
    ByName,
    FeatureSettings,
    LearnerSettings,
    MetaSettings,
    PlanSettings,
    PretextSettings,
    Section,
    TaskSettings,
    TrackSettings,
    load,
)
from ..space import SPACES, SpaceSettings, UNetSupernetSettings

log = logging.getLogger(__name__)


class Settings(Section):
    """All settings of a run."""

    seed: int = Field(default=0, ge=0)  #: of weights, draws of tasks and patches
    device: str = "auto"  #: auto (CUDA where there is one), cpu, cuda, cuda:N
    precision: Literal["auto", "float32", "bfloat16"] = (
        "auto"  #: of convolutions; auto: bfloat16 where the device multiplies in it
    )
    threads: int = Field(default=0, ge=0)  #: of torch; 0: leave as it is
    cache: str = "cache"  #: folder that metanas-med prepare wrote
    space: Annotated[SpaceSettings, SerializeAsAny(), ByName.of(SPACES)] = UNetSupernetSettings()  # type: ignore[operator]
    tasks: TaskSettings = TaskSettings()
    plan: PlanSettings = PlanSettings()
    learner: LearnerSettings = LearnerSettings()
    adapt: LearnerSettings = LearnerSettings()
    meta: MetaSettings = MetaSettings()
    features: FeatureSettings = FeatureSettings()
    pretext: PretextSettings = PretextSettings()
    track: TrackSettings = TrackSettings()

    @model_validator(mode="after")
    def _fomaml_stays_soft(self) -> Settings:
        if self.learner.name == "fomaml" and self.meta.commit < 1 and self.space.name != "unet":
            log.warning("setting meta.commit %s has no effect: fomaml trains the whole supernet to the end", self.meta.commit)
        return self

    @model_validator(mode="after")
    def _alphas_of_features(self) -> Settings:
        if self.features.alpha_lr and self.features.first + self.features.last > 0:
            if self.learner.alpha != "adapt":
                log.warning(
                    "setting features.alpha_lr %s has no effect: learner.alpha is %s", self.features.alpha_lr, self.learner.alpha
                )
            if self.learner.cost_weight:
                log.warning("setting learner.cost_weight %s does not reach the alphas of feature steps", self.learner.cost_weight)
        return self


def load_settings(path: Path | str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of a run from a YAML file (or the defaults) after ``["--section.key", "value", ...]``.

    Raises ConfigError for a missing or malformed file, an unknown key (naming the near one) or a value out of bounds.
    """
    return load.load_settings(path, overrides, Settings)
