"""Label-free tasks (UnNAS, Liu et al. 2020): ordinary episodes whose labels are generated from the scan itself."""

from ..registry import import_parts
from .base import EpisodeMaker, Frame, Pretext, Scan, TooLittleContent
from .registry import PRETEXTS, build_pretext, check_pretexts, episode_maker, register_pretext, scan_pretexts
from .source import PretextSource, build_source
from .synthesis import SynthesisSource, build_synthesis

__all__ = [
    "PRETEXTS",
    "EpisodeMaker",
    "Frame",
    "Pretext",
    "PretextSource",
    "Scan",
    "SynthesisSource",
    "TooLittleContent",
    "build_pretext",
    "build_source",
    "build_synthesis",
    "check_pretexts",
    "episode_maker",
    "register_pretext",
    "scan_pretexts",
]

import_parts(__name__, __path__)
