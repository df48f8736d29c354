"""Every setting of the toolkit: typed, bounded, unknown keys refused.

One mechanism: a YAML file that names only what differs from the defaults, then ``--section.key value`` on the command line.
Configuration objects hold values only. Sizes are in voxels, spacings in mm, times in seconds.
"""

from .load import load_settings, override
from .recipe import (
    MERGED,
    UNMERGED,
    FeatureSettings,
    LearnerSettings,
    MetaSettings,
    PlanSettings,
    PretextSettings,
    Section,
    Settings,
    SpaceSettings,
    TaskSettings,
    TrackSettings,
)

__all__ = [
    "MERGED",
    "UNMERGED",
    "FeatureSettings",
    "LearnerSettings",
    "MetaSettings",
    "PlanSettings",
    "PretextSettings",
    "Section",
    "Settings",
    "SpaceSettings",
    "TaskSettings",
    "TrackSettings",
    "load_settings",
    "override",
]
