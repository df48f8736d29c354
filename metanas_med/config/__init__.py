"""Every setting of the toolkit: typed, bounded, unknown keys refused.

One mechanism: a YAML file that names only what differs from the defaults, then ``--section.key value`` on the command line.
Configuration objects hold values only. Sizes are in voxels, spacings in mm, times in seconds.
"""

from .grids import BenchmarkData, BenchmarkGroup, BenchmarkSettings, ComparedGroup, FirstRunSettings, UnnasSettings
from .load import load_settings, override
from .recipe import (
    MERGED,
    UNMERGED,
    FeatureSettings,
    LearnerSettings,
    MetaSettings,
    PlanSettings,
    PretextSettings,
    Settings,
    SpaceSettings,
    TaskSettings,
    TrackSettings,
)
from .section import ByName, Section

__all__ = [
    "MERGED",
    "UNMERGED",
    "BenchmarkData",
    "BenchmarkGroup",
    "BenchmarkSettings",
    "ByName",
    "ComparedGroup",
    "FeatureSettings",
    "FirstRunSettings",
    "LearnerSettings",
    "MetaSettings",
    "PlanSettings",
    "PretextSettings",
    "Section",
    "Settings",
    "SpaceSettings",
    "TaskSettings",
    "TrackSettings",
    "UnnasSettings",
    "load_settings",
    "override",
]
