"""All faults of the corpus."""

from __future__ import annotations

from .archive_faults import ARCHIVE_FAULTS
from .cache_faults import CACHE_FAULTS
from .checkpoint_faults import TENSOR_FAULTS
from .checkpoint_notes import NOTE_FAULTS
from .config_faults import CONFIG_FAULTS
from .corpus import Fault
from .dataset_faults import DATASET_FAULTS
from .nifti_faults import NIFTI_FAULTS

FAULTS: list[Fault] = [
    *NIFTI_FAULTS,
    *DATASET_FAULTS,
    *CONFIG_FAULTS,
    *CACHE_FAULTS,
    *ARCHIVE_FAULTS,
    *TENSOR_FAULTS,
    *NOTE_FAULTS,
]
