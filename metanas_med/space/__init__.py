"""What can be searched: search spaces behind one door, their parts, and what works for every space: genotypes, derivation, cost.

A new space is one file in this folder: a class with ``rows`` and ``build``, registered by ``@register_space``. A new candidate
operation is one file in ``blocks/``.
"""

from ..registry import import_parts
from . import blocks
from .base import Body, Box, Outline, Picks, Row, SearchSpace
from .blocks.operations import CANDIDATES, register_candidate
from .calibrate import calibrate
from .cost import (
    cost,
    expected_multiply_adds,
    genotype_multiply_adds,
    random_genotype_of_cost,
    supernet_multiply_adds,
)
from .genotype import (
    build_derived,
    derive,
    genotype,
    hash_genotype,
    neighbours,
    one_hot_alphas,
    outline,
    random_genotype,
    read_genotype,
    read_space_settings,
    validate_genotype,
    write_genotype,
)
from .narrow import draw_sandwich, sampled_rows
from .registry import SPACES, get_space, register_space
from .settings import SpaceSettings
from .unet import UNetSettings, unet_of_cost
from .unet_plan import UNetSupernetSettings

__all__ = [
    "CANDIDATES",
    "SPACES",
    "Body",
    "Box",
    "Outline",
    "Picks",
    "Row",
    "SearchSpace",
    "SpaceSettings",
    "UNetSettings",
    "UNetSupernetSettings",
    "build_derived",
    "calibrate",
    "cost",
    "derive",
    "draw_sandwich",
    "expected_multiply_adds",
    "genotype",
    "genotype_multiply_adds",
    "get_space",
    "hash_genotype",
    "neighbours",
    "one_hot_alphas",
    "outline",
    "random_genotype",
    "random_genotype_of_cost",
    "read_genotype",
    "read_space_settings",
    "register_candidate",
    "sampled_rows",
    "register_space",
    "supernet_multiply_adds",
    "unet_of_cost",
    "validate_genotype",
    "write_genotype",
]

import_parts(blocks.__name__, blocks.__path__)
import_parts(__name__, __path__)
