"""Where jobs run: one after another in this process, or in several processes. Other rooms do not depend on it."""

from ..registry import import_parts
from .ordered import map_in_order
from .registry import LAUNCHERS, Launcher, build_launcher, register_launcher, run_all

__all__ = ["LAUNCHERS", "Launcher", "build_launcher", "map_in_order", "register_launcher", "run_all"]

import_parts(__name__, __path__)
