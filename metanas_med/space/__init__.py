"""What can be searched: candidates, merged edges, cells, supernet, genotype, derived networks, cost; also a plain U-Net."""

from ..registry import import_parts
from .calibrate import calibrate
from .cost import (
    cost,
    expected_multiply_adds,
    genotype_multiply_adds,
    random_genotype_of_cost,
    supernet_multiply_adds,
    unet_of_cost,
)
from .derived import DerivedNet, build_derived, derive
from .genotype import genotype, hash_genotype, one_hot_alphas, random_genotype, validate_genotype
from .registry import build_space, list_spaces, register_space
from .supernet import Body, Supernet

__all__ = [
    "Body",
    "DerivedNet",
    "Supernet",
    "build_derived",
    "build_space",
    "calibrate",
    "cost",
    "derive",
    "expected_multiply_adds",
    "genotype",
    "genotype_multiply_adds",
    "hash_genotype",
    "list_spaces",
    "one_hot_alphas",
    "random_genotype",
    "random_genotype_of_cost",
    "register_space",
    "supernet_multiply_adds",
    "validate_genotype",
    "unet_of_cost",
]

import_parts(__name__, __path__)
