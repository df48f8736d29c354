"""BiX-NAS: an encoder and a decoder run several times with shared kernels; which maps each block reads is searched."""

from .graph import count_architectures, read_gene
from .settings import BixSettings
from .space import Bix

__all__ = ["Bix", "BixSettings", "count_architectures", "read_gene"]
