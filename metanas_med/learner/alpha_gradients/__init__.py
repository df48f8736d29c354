"""How alphas get their gradient; one file per alpha gradient, imported automatically."""

from ...registry import import_parts
from .base import ALPHA_GRADIENTS, AlphaGradient, AlphaGradientSettings, Halves, Loss, register_alpha_gradient
from .exact import ExactSecondOrderSettings
from .first_order import FirstOrderSettings
from .second_order import SecondOrderSettings
from .single_level import SingleLevelSettings

__all__ = [
    "ALPHA_GRADIENTS",
    "AlphaGradient",
    "AlphaGradientSettings",
    "ExactSecondOrderSettings",
    "FirstOrderSettings",
    "Halves",
    "Loss",
    "SecondOrderSettings",
    "SingleLevelSettings",
    "register_alpha_gradient",
]

import_parts(__name__, __path__)
