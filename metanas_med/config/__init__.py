"""How settings are read, checked and shown; the settings themselves are next to the part that reads them.

One mechanism: a YAML file that names what differs from the defaults, then ``--section.key value`` on the command line.
"""

from .load import load_settings, override
from .section import ByName, Presets, Section

__all__ = ["ByName", "Presets", "Section", "load_settings", "override"]
