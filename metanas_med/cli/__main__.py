"""``python -m metanas_med.cli``."""

import sys

from . import main

sys.exit(main())
