"""Meta-training over a task distribution: ``python scripts/meta_train.py --config meta_train --out runs/meta --meta.iterations 500``.

The same function as ``metanas-med meta-train``; see its ``--help``.
"""

import sys

from metanas_med.cli import main

if __name__ == "__main__":
    sys.exit(main(["meta-train", *sys.argv[1:]]))
