"""Does it matter which scans are annotated? ``python scripts/annotate.py RUN DATASET[=ORGAN]... OUT``.

RUN is a meta-training folder that held the data sets out; DATASET a prepared one (.h5) or its folder, ORGAN as for ``adapt`` (all). Adds to
OUT/annotate.csv what is missing and writes OUT/annotate.md; goes on where it stopped. ``--draws``, ``--seeds`` and ``--query`` set how
many random supports, seeds a chosen support, and query cases. Without data sets only the page is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..engine.meta_run import MetaRun
from ..engine.support import open_dataset
from .annotate import Study, run_study, write_report
from .grid import alone_in


def main() -> None:
    """Run the studies, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("datasets", nargs="*", metavar="DATASET[=ORGAN]")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--query", type=int, default=10)
    parser.add_argument("--notes", default="", help="how the run came about, for the page; kept in OUT/annotate_notes.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with alone_in(chosen.out):
        run = MetaRun.load(chosen.run)
        for entry in chosen.datasets:
            place, _, organ = entry.partition("=")
            study = Study(open_dataset(place), organ or "all", chosen.shots, chosen.draws, chosen.seeds, chosen.query)
            run_study(study, run, chosen.out)
        print(write_report(chosen.out, chosen.notes))


if __name__ == "__main__":
    main()
