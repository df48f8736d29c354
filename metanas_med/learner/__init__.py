"""The inner loop: one task-learner run on one support set; sees arrays, never files."""

from ..registry import import_parts
from .base import LEARNERS, Adapted, Context, LearnerSettings, TaskLearner, build_learner, register_learner
from .darts import DartsLearner
from .darts_settings import DartsSettings
from .episode import LearnerReport, NonFiniteLossError, Task
from .features import FeatureLearner, FeatureSettings
from .maml import maml_gradient
from .runtime import Runtime, choose_runtime
from .sgd import SgdLearner, SgdSettings

__all__ = [
    "LEARNERS",
    "Adapted",
    "Context",
    "DartsLearner",
    "DartsSettings",
    "FeatureLearner",
    "FeatureSettings",
    "LearnerReport",
    "LearnerSettings",
    "NonFiniteLossError",
    "Runtime",
    "SgdLearner",
    "SgdSettings",
    "Task",
    "TaskLearner",
    "build_learner",
    "choose_runtime",
    "maml_gradient",
    "register_learner",
]

import_parts(__name__, __path__)
