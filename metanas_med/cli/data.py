"""Commands for checks and for data: doctor, prepare, download, phantom."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .common import Commands, add_reading, at_least, open_console, progress, reading_of


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to the parser."""
    _add_doctor(commands)
    _add_prepare(commands)
    _add_download(commands)
    _add_phantom(commands)


def _add_doctor(commands: Commands) -> None:
    sub = commands.add("doctor", _doctor, "check this machine, or a run, a model or a data set from end to end")
    sub.add_argument(
        "path",
        nargs="?",
        type=Path,
        metavar="RUN|MODEL|DATASET",
        help="a run, a model, a data set's folder, a prepared .h5 file or a folder of them, or a shipped start by name; "
        "without it: this machine",
    )
    sub.add_argument("--cache", type=Path, help="folder of prepared data sets to check (default: ~/.cache/metanas_med)")
    add_reading(sub)


def _doctor(arguments: argparse.Namespace, rest: list[str]) -> None:
    from rich.markup import escape

    from ..engine.doctor import diagnose

    if arguments.path is None:
        findings = diagnose(arguments.cache)
    else:
        from ..engine.doctor_artifacts import examine
        from ..engine.starts import shipped_starts

        path: Path = arguments.path
        if not path.exists():
            path = shipped_starts().get(str(path), path)
        if arguments.cache:
            raise UserError(f"--cache has no effect with {arguments.path}; it is for the check of this machine. Remove one.")
        with progress("cases") as on_case:
            findings = examine(path, reading_of(arguments), on_case)
    marks = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
    failed = False
    for check, state, detail in findings:
        open_console().print(f"{marks[state]:>5}  {escape(f'{check}: {detail}')}", highlight=False, soft_wrap=True)
        failed |= state == "fail"
    if failed:
        what = "this machine is not ready" if arguments.path is None else f"{arguments.path} is not in order"
        raise UserError(f"{what}; see the lines marked fail")


def _add_prepare(commands: Commands) -> None:
    sub = commands.add(
        "prepare",
        _prepare,
        "check data set folders (MSD layout) and write them to the HDF5 cache",
        stopped=lambda arguments, typed: f"complete data sets in {arguments.cache} are kept. To go on: {typed}",
    )
    sub.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="folders in MSD layout")
    sub.add_argument(
        "--cache", type=Path, default=Path("cache"), help="folder for the .h5 files, one per data set (default: cache)"
    )
    sub.add_argument("--skip-bad", action="store_true", help="leave out bad cases instead of stopping")
    sub.add_argument("--workers", type=at_least(1), default=2, help="number of scans to check in parallel (default: 2)")
    add_reading(sub)


def _prepare(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..data.cache import prepare
    from ..report.tables import rich_table

    with progress("cases") as on_case:
        rows = prepare(
            arguments.datasets,
            arguments.cache,
            arguments.skip_bad,
            arguments.workers,
            progress=lambda name, done, total: on_case(done, total),
            options=reading_of(arguments),
        )
    table = [  # tuples hold what must not be split between lines
        {
            "data set": (r.name,),
            "group": (r.group,),
            "kind": _channels(r.modality, r.channel_names),
            "cases": r.cases,
            "patients": f"{r.patients}" if r.patients_known else f"{r.patients} (one per file)",
            "organs": tuple(r.labels.values()),
            "shape": (_range(r.shape_range),),
            "spacing mm": (_range(r.spacing_range),),
            "status": (r.status, f"{r.seconds:.1f} s", *((f"{len(r.bad)} set aside",) if r.bad else ())),
        }
        for r in rows
    ]
    open_console().print(rich_table(table, title=str(arguments.cache)))
    for row in rows:
        for note in row.notes:
            print(f"{row.name}: {note}")
        for problem in row.bad:
            print(f"set aside: {problem.dataset} {problem.case}: {problem.problem}")
    if empty := [row.name for row in rows if not row.cases]:
        written = "nothing was written" if len(empty) == len(rows) else "the other data sets were written"
        raise UserError(
            f"no usable case is left in {', '.join(empty)}; {written}. Fix what was set aside and run the command again."
        )


def _add_download(commands: Commands) -> None:
    sub = commands.add("download", _download, "download a task of the Medical Segmentation Decathlon")
    sub.add_argument("task", metavar="TASK", help="name of the task, such as Task04_Hippocampus")
    sub.add_argument("--out", type=Path, default=Path("data"), help="folder that receives the data set's folder (default: data)")


def _download(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..data.download import download_task

    print(f"downloaded {download_task(arguments.task, arguments.out)}")


def _add_phantom(commands: Commands) -> None:
    sub = commands.add("phantom", _phantom, "write the synthetic decathlon, ten organ data sets in MSD layout")
    sub.add_argument("out", type=Path, metavar="OUT", help="folder that receives the ten data sets' folders")
    sub.add_argument("--seed", type=at_least(0), default=0, help="random seed; the same seed gives the same bytes (default: 0)")
    sub.add_argument("--cases", type=at_least(1), default=8, help="number of scans per data set (default: 8)")


def _phantom(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..data.phantom import make_phantoms

    paths = make_phantoms(arguments.out, arguments.seed, arguments.cases)
    print(f"wrote {len(paths)} data sets to {arguments.out}")


def _channels(kinds: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return one text per channel: its kind, and its name in dataset.json where that says more."""
    if len(names) != len(kinds):
        return tuple(kinds)
    plain = {"CT", "MR", "MRI", "PET", "US"}
    return tuple(
        kind if name.upper() in plain | {kind.upper()} else f"{kind} ({name})" for kind, name in zip(kinds, names, strict=True)
    )


def _range(bounds: tuple[tuple[float, ...], tuple[float, ...]]) -> str:
    pairs = zip(bounds[0], bounds[1], strict=True)
    return " x ".join(f"{low:g}" if low == high else f"{low:.3g}-{high:.3g}" for low, high in pairs)
