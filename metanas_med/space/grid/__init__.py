"""A path of cells through a grid of layers and levels, after MS-NAS and Auto-DeepLab."""

from .body import GridBody
from .settings import GridSettings
from .space import GridSpace

__all__ = ["GridBody", "GridSettings", "GridSpace"]
