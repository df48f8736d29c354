"""How a soft network becomes a discrete one; one file per discretizer, imported automatically."""

from ...registry import import_parts
from .argmax import ArgmaxSettings
from .base import DISCRETIZERS, Discretizer, DiscretizerSettings, register_discretizer
from .none import NoneSettings

__all__ = ["DISCRETIZERS", "ArgmaxSettings", "Discretizer", "DiscretizerSettings", "NoneSettings", "register_discretizer"]

import_parts(__name__, __path__)
