"""``annotate``: does it matter which scans are annotated? Supports chosen by their features against random ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..registry import Study


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of annotate.csv and annotate.md; the study resumes there")
    parser.add_argument(
        "--run", dest="meta_run", metavar="RUN", help="a shipped start, or a meta-training's folder, that held the data sets out"
    )
    parser.add_argument(
        "datasets",
        nargs="*",
        metavar="DATASET[=ORGAN]",
        help="a prepared data set (.h5) or its folder; none: only write the page",
    )
    parser.add_argument("--shots", type=int, default=5, help="scans in a support (default 5)")
    parser.add_argument("--draws", type=int, default=8, help="random supports (default 8)")
    parser.add_argument("--seeds", type=int, default=4, help="adaptations of each chosen support (default 4)")
    parser.add_argument("--query", type=int, default=10, help="query cases (default 10)")
    parser.add_argument("--notes", default="", help="text for the page: how the run was made; kept in annotate_notes.md")


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    import torch

    from ...engine.meta_run import MetaRun
    from ...engine.support import open_dataset
    from ...errors import ConfigError
    from ..grid.lock import alone_in
    from .report import write_report
    from .run import Annotation, run_study

    if arguments.datasets and arguments.meta_run is None:
        raise ConfigError("data sets were given without a run. Add --run FOLDER, or leave them out to write the page alone.")
    torch.set_num_threads(1)
    if arguments.datasets:
        with alone_in(arguments.out):
            run = MetaRun.open(arguments.meta_run)
            for entry in arguments.datasets:
                place, _, organ = entry.partition("=")
                given = (arguments.shots, arguments.draws, arguments.seeds, arguments.query)
                run_study(Annotation(open_dataset(place), organ or "all", *given), run, arguments.out)
    print(f"page: {write_report(arguments.out, arguments.notes)}")


STUDY = Study("annotate", "does it matter which scans are annotated? resumable", _add_arguments, _run)
