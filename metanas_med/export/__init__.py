"""Models for other software: one file an export, found by itself."""

from ..registry import import_parts
from .base import EXPORTS, Export, export, register_export

__all__ = ["EXPORTS", "Export", "export", "register_export"]

import_parts(__name__, __path__)
