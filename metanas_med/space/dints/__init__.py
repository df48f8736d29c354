"""DiNTS (He et al. 2021, arXiv 2103.15954): a grid of blocks and levels whose edges are searched together."""

from .body import DintsBody
from .settings import DintsSettings
from .space import Dints
from .topology import count_topologies

__all__ = ["Dints", "DintsBody", "DintsSettings", "count_topologies"]
