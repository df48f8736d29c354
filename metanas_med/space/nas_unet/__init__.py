"""NAS-Unet: one down cell and one up cell of searched operations, each shared by all levels.

``settings`` says what is searched, ``picks`` which architectures there are, ``body`` runs them, ``native`` has the authors' operations,
``expected`` their mean cost.
"""

from .body import NasUnet, NasUnetBody
from .picks import num_cells
from .settings import NasUnetSettings

__all__ = ["NasUnet", "NasUnetBody", "NasUnetSettings", "num_cells"]
