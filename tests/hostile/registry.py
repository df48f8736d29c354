"""All faults of the corpus."""

from __future__ import annotations

from .corpus import Fault
from .nifti_faults import NIFTI_FAULTS

FAULTS: list[Fault] = [*NIFTI_FAULTS]
