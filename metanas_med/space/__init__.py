"""What can be searched: candidate operations, merged edges, cells, supernet, genotype, derived networks, cost; also a plain U-Net."""

from . import supernet, unet  # noqa: F401  (they register their spaces)
from .derived import DerivedNet, build_derived, derive
from .genotype import genotype, one_hot_alphas, random_genotype, validate_genotype
from .registry import build_space, list_spaces, register_space
from .supernet import Body, Supernet

__all__ = [
    "Body",
    "DerivedNet",
    "Supernet",
    "build_derived",
    "build_space",
    "derive",
    "genotype",
    "list_spaces",
    "one_hot_alphas",
    "random_genotype",
    "register_space",
    "validate_genotype",
]
