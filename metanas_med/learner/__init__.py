"""The inner loop: one task-learner run on one support set; sees arrays, never files."""

from ..registry import import_parts
from .darts import Adapted, DartsLearner
from .episode import LearnerReport, NonFiniteLossError, Task
from .features import FeatureLearner
from .maml import FomamlLearner, maml_gradient
from .registry import build_learner, list_learners, register_learner
from .runtime import Runtime, choose_runtime
from .schedule import switch_step

__all__ = [
    "Adapted",
    "DartsLearner",
    "FeatureLearner",
    "FomamlLearner",
    "LearnerReport",
    "NonFiniteLossError",
    "Runtime",
    "Task",
    "build_learner",
    "choose_runtime",
    "list_learners",
    "maml_gradient",
    "register_learner",
    "switch_step",
]

import_parts(__name__, __path__)
