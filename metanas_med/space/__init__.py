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
from .genotype import genotype, hash_genotype, one_hot_alphas, random_genotype, read_space_settings, validate_genotype
from .plan import UNetSupernetSettings
from .registry import SPACES, build_space, list_spaces, register_space
from .settings import SpaceSettings
from .supernet import Body, Supernet
from .unet import UNetSettings

__all__ = [
    "SPACES",
    "Body",
    "DerivedNet",
    "SpaceSettings",
    "Supernet",
    "UNetSettings",
    "UNetSupernetSettings",
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
    "read_space_settings",
    "register_space",
    "supernet_multiply_adds",
    "validate_genotype",
    "unet_of_cost",
]

import_parts(__name__, __path__)
