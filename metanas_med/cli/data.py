"""Commands for checks and for data: doctor, prepare, download, phantom."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .common import Commands, add_reading, at_least, names_of, open_console, progress, reading_of

if TYPE_CHECKING:
    from ..data.pairs import Pairs


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
        "check data set folders (MSD, nnU-Net or BIDS), or pairs of scans and label maps, and write them to the HDF5 cache",
        stopped=lambda arguments, typed: f"complete data sets in {arguments.cache} are kept. To go on: {typed}",
    )
    sub.add_argument("datasets", nargs="*", type=Path, metavar="DATASET", help="folders in the layout of MSD, nnU-Net or BIDS")
    plain = sub.add_argument_group("plain pairs, instead of DATASET")
    plain.add_argument("--images", type=Path, help="folder of scans")
    plain.add_argument(
        "--labels", type=Path, help="folder of label maps with the names of their scans, or with _seg, _label, _mask"
    )
    plain.add_argument("--modality", help="CT, MR, PET or US; with several channels one for each, such as T1,FLAIR")
    plain.add_argument("--name", help="name of the data set (default: that of the folder around --images)")
    plain.add_argument("--organs", help="names of label values, such as 1=liver,2=tumour (default: label 1, label 2, ...)")
    sub.add_argument(
        "--cache", type=Path, default=Path("cache"), help="folder for the .h5 files, one per data set (default: cache)"
    )
    sub.add_argument("--skip-bad", action="store_true", help="leave out bad cases instead of stopping")
    sub.add_argument("--picture", action="store_true", help="also draw a page of scans with outlines of their labels, NAME.png")
    sub.add_argument("--workers", type=at_least(1), default=2, help="number of scans to check in parallel (default: 2)")
    add_reading(sub)


def _prepare(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..data.cache import prepare
    from ..report.tables import rich_table

    pairs = _pairs(arguments)
    with progress("cases") as on_case:
        rows = prepare(
            arguments.datasets,
            arguments.cache,
            arguments.skip_bad,
            arguments.workers,
            progress=lambda name, done, total: on_case(done, total),
            options=reading_of(arguments),
            pairs=pairs,
        )
    table = [  # tuples hold what must not be split between lines
        {
            "data set": (r.name, *((f"group {r.group}",) if r.group not in ("", r.name) else ())),
            "kind": _channels(r.modality, r.channel_names),
            "cases": f"{r.cases} of {r.patients} patients" if r.patients_known else f"{r.cases} (one per file)",
            "organs": tuple(r.labels.values()),
            "voxels": _range(r.shape_range),
            "mm": _range(r.spacing_range),
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
    for row in rows if arguments.picture else ():
        if row.cases:
            print(f"drew {_draw(arguments.cache, row.name)}")
    if empty := [row.name for row in rows if not row.cases]:
        written = "nothing was written" if len(empty) == len(rows) else "the other data sets were written"
        raise UserError(
            f"no usable case is left in {', '.join(empty)}; {written}. Fix what was set aside and run the command again."
        )


def _pairs(arguments: argparse.Namespace) -> Pairs | None:
    """Return the plain pairs that the options describe; None if data set folders are given instead."""
    from ..data.pairs import Pairs

    given = {name: getattr(arguments, name) for name in ("images", "labels", "modality", "name", "organs")}
    if not any(given.values()):
        if not arguments.datasets:
            raise UserError("nothing to prepare; give data set folders, or --images DIR --labels DIR --modality CT")
        return None
    if arguments.datasets:
        first = next(name for name, value in given.items() if value)
        raise UserError(f"--{first} is for plain pairs, and {arguments.datasets[0]} is a data set folder. Give one of the two.")
    if absent := [f"--{name}" for name in ("images", "labels", "modality") if not given[name]]:
        raise UserError(f"plain pairs also need {' and '.join(absent)}; for example --images DIR --labels DIR --modality CT")
    images: Path = arguments.images
    name = arguments.name or images.absolute().parent.name
    return Pairs(name, images, arguments.labels, tuple(names_of(arguments.modality)), _organs(arguments.organs))


def _organs(text: str | None) -> tuple[tuple[int, str], ...]:
    """Return (label value, name) of a text such as ``1=liver,2=tumour``."""
    found = []
    for part in names_of(text):
        value, _, name = (piece.strip() for piece in part.partition("="))
        if not (value.isascii() and value.isdigit() and 0 < int(value) < 256 and name):
            raise UserError(f"--organs: found {part!r}, expected a label value from 1 to 255 and a name, such as 1=liver")
        found.append((int(value), name))
    if len(dict(found)) < len(found):
        raise UserError(f"--organs {text}: a label value is named twice; expected one name for each")
    return tuple(found)


def _draw(cache: Path, name: str) -> Path:
    """Return the page of thumbnails of a prepared data set after drawing it beside the data set."""
    from ..data.cached import open_cache
    from ..report.thumbnails import draw_thumbnails

    return draw_thumbnails(cache / f"{name}.png", open_cache(cache / f"{name}.h5"))


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
