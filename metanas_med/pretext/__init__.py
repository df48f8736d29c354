"""Label-free tasks (UnNAS, Liu et al. 2020): ordinary episodes whose labels are generated from the scan itself."""

from ..registry import import_parts
from .base import Frame, Pretext, Scan, TooLittleContent
from .registry import PRETEXTS, build_pretext, check_pretexts, register_pretext
from .source import PretextSource, build_source

__all__ = [
    "PRETEXTS",
    "Frame",
    "Pretext",
    "PretextSource",
    "Scan",
    "TooLittleContent",
    "build_pretext",
    "build_source",
    "check_pretexts",
    "register_pretext",
]

import_parts(__name__, __path__)
