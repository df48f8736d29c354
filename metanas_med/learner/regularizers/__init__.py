"""Penalties on architecture parameters; one file per regularizer, imported automatically."""

from ...registry import import_parts
from .base import REGULARIZERS, Penalty, Regularizer, RegularizerSettings, register_regularizer
from .cost import CostSettings

__all__ = ["REGULARIZERS", "CostSettings", "Penalty", "Regularizer", "RegularizerSettings", "register_regularizer"]

import_parts(__name__, __path__)
