"""The command ``metanas-med``: parse, call, show. Heavy imports stay inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .errors import UserError

Command = Callable[[argparse.Namespace, list[str]], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code of one command: 0, or 2 with one or two lines on stderr for a mistake that the user can mend."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not arguments.overrides:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr
    )
    try:
        arguments.run(arguments, rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        print(f"error: cannot write {error.filename or 'a file'}: {error.strerror}. Free some space.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "metanas-med", description="Few-shot architecture search for medical segmentation, by meta-learning."
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-v", "--verbose", action="store_true")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Command, text: str, overrides: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run, overrides=overrides)
        return sub

    sub = add("doctor", _doctor, "is this machine fit: versions, devices, threads, cache, W&B, learn2learn")
    sub.add_argument("--cache", type=Path)

    sub = add("prepare", _prepare, "check data set folders (MSD layout) and write them to the HDF5 cache")
    sub.add_argument("datasets", nargs="+", type=Path, metavar="DATASET")
    sub.add_argument("--cache", type=Path, default=Path("cache"))
    sub.add_argument("--skip-bad", action="store_true", help="set bad cases aside instead of stopping")
    sub.add_argument("--workers", type=_at_least(1), default=2)

    sub = add("download", _download, "fetch a task of the Medical Segmentation Decathlon", False)
    sub.add_argument("task", metavar="TASK")
    sub.add_argument("--out", type=Path, default=Path("data"))

    sub = add("phantom", _phantom, "write the synthetic decathlon, ten organ data sets in MSD layout")
    sub.add_argument("out", type=Path)
    sub.add_argument("--seed", type=_at_least(0), default=0)
    sub.add_argument("--cases", type=_at_least(1), default=8)

    sub = add(
        "meta-train", _meta_train, "learn weights and architecture over organ tasks; --section.key value sets any setting", True
    )
    sub.add_argument("--config", default="meta_train")
    sub.add_argument("--out", type=Path, default=Path("runs/meta"))
    sub.add_argument("--resume", action="store_true")
    sub.add_argument("--track", choices=["local", "wandb"], default="local")

    sub = add(
        "search",
        _search,
        "learn an architecture and its weights from unlabelled scans; --section.key value sets any setting",
        True,
    )
    sub.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="folders of scans; labels are not read")
    sub.add_argument("--pretext", help="the label-free task, or several by comma, which take turns")
    sub.add_argument("--config", default="search")
    sub.add_argument("--cache", type=Path, help="where a folder of their images is kept")
    sub.add_argument("--out", type=Path, default=Path("runs/search"))
    sub.add_argument("--resume", action="store_true")
    sub.add_argument("--track", choices=["local", "wandb"], default="local")

    sub = add(
        "adapt", _adapt, "fit an organ from a few annotated scans; --adapt.key and --plan.key set the learner and the plan", True
    )
    sub.add_argument("meta_run", type=Path, metavar="RUN")
    sub.add_argument("dataset", type=Path, metavar="DATASET")
    sub.add_argument("--organ", default="all", help="a name, several by comma, a union by +, or all")
    sub.add_argument("--shots", type=int, default=5)
    sub.add_argument("--steps", type=_at_least(0))
    sub.add_argument("--support", help="case names by comma, instead of a draw")
    sub.add_argument("--seed", type=_at_least(0), default=0)
    sub.add_argument(
        "--evaluate", type=_at_least(0), default=5, help="how many labelled scans that are left to score before and after"
    )
    sub.add_argument(
        "--unlabelled", type=Path, metavar="FOLDER", help="scans without labels, to learn from before the annotated ones"
    )
    sub.add_argument("--pretext", help="the label-free task for them, or several by comma")
    sub.add_argument("--unlabelled-steps", type=_at_least(1), help="gradient steps on them")
    sub.add_argument("--checkpoint", choices=["last", "best"], default="last")
    sub.add_argument("--cache", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--device", default="auto")

    sub = add("suggest", _suggest, "rank unlabelled scans: which few to annotate, so that their features cover the rest")
    sub.add_argument("scans", type=Path, metavar="FOLDER", help="MSD layout, NIfTI files, or a prepared .h5; labels are not read")
    sub.add_argument("--shots", type=_at_least(1), default=5)
    sub.add_argument("--run", dest="meta_run", type=Path, metavar="RUN", help="a meta-training; without it, random weights")
    sub.add_argument("--method", choices=["k-medoids", "k-centre"], default="k-medoids")
    sub.add_argument("--modality", choices=["CT", "MR", "PET", "US"], help="where no dataset.json or card tells it")
    sub.add_argument("--checkpoint", choices=["last", "best"], default="last")
    sub.add_argument("--out", type=Path, help="a .json or .csv file")
    sub.add_argument("--device", default="auto")

    sub = add("predict", _predict, "segment scans with an adapted model, in their own geometry")
    sub.add_argument("model", type=Path, metavar="MODEL")
    sub.add_argument("scans", nargs="+", type=Path, metavar="SCAN_OR_FOLDER")
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--device", default="auto")

    sub = add("evaluate", _evaluate, "Dice, NSD and HD95 of a model on a data set, or of a folder of predictions")
    sub.add_argument("model", type=Path, nargs="?", metavar="MODEL")
    sub.add_argument("dataset", type=Path, nargs="?", metavar="DATASET")
    sub.add_argument("--predictions", type=Path)
    sub.add_argument("--labels", type=Path)
    sub.add_argument("--limit", type=_at_least(1))
    sub.add_argument("--cache", type=Path)
    sub.add_argument("--out", type=Path, required=True)

    sub = add("bench", _bench, "measure the cost of the supernet, everything in one run")
    sub.add_argument("what", choices=["supernet", "msd"])
    sub.add_argument("--out", type=Path, default=Path("runs/bench"))
    sub.add_argument("--quick", action="store_true", help="fewer repetitions, no Dice at equal cost")
    sub.add_argument("--report", action="store_true", help="of the supernet: only write the page, from the CSV files in --out")

    sub = add("first-run", _first_run, "meta-train without a group, adapt to its organs, compare; resumable", True)
    sub.add_argument("--config", default="first_run")
    sub.add_argument("--report", action="store_true", help="only write the tables from the CSV files")

    sub = add("benchmark", _benchmark, "few-shot adaptation to held-out organs by competing methods; resumable", True)
    sub.add_argument("--config", default="benchmark")
    sub.add_argument("--report", action="store_true", help="only write CSV, tables and figures from the cells that are done")
    sub.add_argument("--only", default="", help="run only cells whose name holds this, and what they rest on")
    sub.add_argument("--dry-run", action="store_true", help="show the cells and the predicted hours")
    sub.add_argument(
        "--merge", type=Path, metavar="FOLDER", help="only take cells from the results that another run published there"
    )

    sub = add("unnas", _unnas, "do label-free tasks rank architectures as labels do? resumable", True)
    sub.add_argument("--config", default="unnas")
    sub.add_argument("--report", action="store_true", help="only write CSV, page and figure from the cells that are done")
    sub.add_argument("--dry-run", action="store_true", help="show the cells and the predicted hours")
    sub.add_argument(
        "--merge", type=Path, metavar="FOLDER", help="only take cells from the results that another run published there"
    )

    sub = add("demo", _demo, "the whole job on the synthetic decathlon", True)
    sub.add_argument("--config", default="demo")
    sub.add_argument("--out", type=Path, default=Path("runs/demo"))
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number of the command line that is not under ``least``."""

    def whole_number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, found {value}")
        return value

    return whole_number


def _console() -> Any:
    from rich.console import Console

    return Console()


def _doctor(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .engine.doctor import diagnose

    marks = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
    failed = False
    for check, state, detail in diagnose(arguments.cache):
        _console().print(f"{marks[state]:>5}  {check}: {detail}", highlight=False)
        failed |= state == "fail"
    if failed:
        raise UserError("this machine is not fit yet; see the lines marked fail")


def _prepare(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .data.cache import BadCases, prepare
    from .report.tables import rich_table

    try:
        rows = prepare(arguments.datasets, arguments.cache, arguments.skip_bad, arguments.workers)
    except BadCases as error:
        bad = [{"data set": b.dataset, "case": b.case, "problem": b.problem} for b in error.rows]
        _console().print(rich_table(bad, title="bad cases"))
        raise
    table = [
        {
            "data set": r.name,
            "group": r.group,
            "kind": ", ".join(r.modality),
            "cases": r.cases,
            "patients": f"{r.patients}" if r.patients_known else f"{r.patients} (a file each)",
            "organs": ", ".join(r.labels.values()),
            "shape": _range(r.shape_range),
            "spacing mm": _range(r.spacing_range),
            "status": f"{r.status}, {r.seconds:.1f} s" + (f", {len(r.bad)} set aside" if r.bad else ""),
        }
        for r in rows
    ]
    _console().print(rich_table(table, title=str(arguments.cache)))
    for row in rows:
        for note in row.notes:
            _console().print(f"{row.name}: {note}", highlight=False)
        for problem in row.bad:
            _console().print(f"set aside: {problem.dataset} {problem.case}: {problem.problem}", highlight=False)


def _range(bounds: tuple[tuple[float, ...], tuple[float, ...]]) -> str:
    pairs = zip(bounds[0], bounds[1], strict=True)
    return " x ".join(f"{low:g}" if low == high else f"{low:.3g}-{high:.3g}" for low, high in pairs)


def _download(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .data.download import download_task

    _console().print(f"fetched {download_task(arguments.task, arguments.out)}")


def _phantom(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .data.phantom import make_phantoms

    paths = make_phantoms(arguments.out, arguments.seed, arguments.cases)
    _console().print(f"wrote {len(paths)} data sets to {arguments.out}")


def _names(given: str | None) -> list[str]:
    """Return names that were given with commas between."""
    return [name.strip() for name in given.split(",")] if given else []


def _meta_train(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .config import load_settings
    from .engine.meta_train import meta_train
    from .resources import find_resource

    tracking = ["--track.wandb", "true"] if arguments.track == "wandb" else []
    settings = load_settings(find_resource("configs", arguments.config), [*rest, *tracking])
    folder = meta_train(settings, arguments.out, arguments.resume)
    _console().print(f"meta-trained: {folder} (last, best, iteration.csv, figures)")


def _search(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .config import load_settings
    from .engine.search import search
    from .resources import find_resource

    tracking = ["--track.wandb", "true"] if arguments.track == "wandb" else []
    settings = load_settings(find_resource("configs", arguments.config), [*rest, *tracking])
    folder = search(settings, arguments.datasets, arguments.out, _names(arguments.pretext), arguments.cache, arguments.resume)
    _console().print(f"searched without labels: {folder} (last, architecture.json, architecture.svg, iteration.csv, figures)")


def _check_sections(flags: Sequence[str], sections: Sequence[str], keys: Sequence[str]) -> None:
    """Raise UserError for a setting that the command would not look at."""
    for flag in flags:
        name = flag[2:].partition("=")[0]
        if flag.startswith("--") and name.partition(".")[0] not in sections and name not in keys:
            allowed = ", ".join([*(f"--{s}.*" for s in sections), *(f"--{k}" for k in keys)])
            raise UserError(
                f"{flag} has no effect here: the run's own settings hold. Expected one of {allowed}, or an option of --help."
            )


def _adapt(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .config import LearnerSettings, PlanSettings, override
    from .engine.adapt import MetaRun, adapt, open_dataset
    from .engine.scans import open_scans
    from .pretext import check_pretexts

    run = MetaRun.load(arguments.meta_run, arguments.checkpoint)
    label_free = {"names": arguments.pretext and f"[{arguments.pretext}]", "steps": arguments.unlabelled_steps}
    pairs = [text for key, value in label_free.items() if value is not None for text in (f"--pretext.{key}", str(value))]
    if pairs and not arguments.unlabelled:
        raise UserError("--pretext and --unlabelled-steps need --unlabelled FOLDER, the scans to learn from")
    _check_sections(rest, ("adapt", "plan", "pretext"), ("precision",))
    # what is given for the plan is for this adaptation
    own = run.settings.model_copy(update={"plan": run.settings.plan.of_adapt()})
    settings = override(own, [*rest, *pairs])
    if arguments.unlabelled:
        check_pretexts(settings.pretext.names)
    learner: LearnerSettings = settings.adapt
    plan: PlanSettings = settings.plan
    note = adapt(
        run,
        open_dataset(arguments.dataset, arguments.cache),
        arguments.out,
        arguments.organ,
        arguments.shots,
        arguments.steps,
        seed=arguments.seed,
        support=_names(arguments.support) or None,
        evaluate=arguments.evaluate,
        learner=learner,
        plan=plan,
        device=arguments.device,
        precision=settings.precision,
        unlabelled=open_scans(arguments.unlabelled, arguments.cache) if arguments.unlabelled else None,
        pretext=settings.pretext,
    )
    if found := note.get("unlabelled"):
        _console().print(
            f"first learned from {found['num_scans']} unlabelled scan(s) by {', '.join(found['pretexts'])}: {found['steps']} steps, "
            f"{found['seconds']:.1f} s; {found['set_aside']} set aside, {len(found['same_as_support'])} left out as support"
            + (f"; transductive: {len(found['same_as_scored'])} of them are scored below" if found["transductive"] else "")
        )
    report = note["report"]
    _console().print(
        f"adapted to {', '.join(note['organs'])} from {len(note['support'])} scan(s), {report['steps']} steps, {note['seconds']:.1f} s"
    )
    if note["dice_after"] is not None:
        _console().print(
            f"Dice on {len(note['scored'])} held-back scans: {note['dice_before']:.3f} before, {note['dice_after']:.3f} after"
        )
    if report["gap_at_switch"] is not None:
        _console().print(
            f"alpha: top probability {report['top_probability_mean']:.2f} mean, {report['top_probability_min']:.2f} least; Dice soft minus "
            f"discrete {report['gap_at_switch']:+.3f} at the switch, {report['gap_at_end']:+.3f} at the end; split: {report['alpha_split']}"
        )
    if not note["patients_known"]:
        _console().print("no card names the patients of this data set: each file counted as one patient")
    _console().print(f"model, architecture, adaptation.json and overlay.png: {arguments.out}")


def _suggest(arguments: argparse.Namespace, rest: list[str]) -> None:
    from rich.progress import Progress

    from .engine.adapt import MetaRun
    from .engine.suggest import suggest_scans
    from .report.tables import rich_table

    console = _console()
    run = MetaRun.load(arguments.meta_run, arguments.checkpoint) if arguments.meta_run else None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        job = bar.add_task("features", total=None)
        note = suggest_scans(
            arguments.scans,
            arguments.shots,
            run,
            arguments.method,
            modality=arguments.modality,
            out=arguments.out,
            device=arguments.device,
            on_scan=lambda done, total: bar.update(job, completed=done, total=total),
        )
    columns = {"rank": "rank", "scan": "scan", "share": "stands for", "mean_distance": "mean distance", "farthest": "farthest"}
    rows = [{**row, "share": f"{100 * row['share']:.0f} %"} for row in note["ranking"]]
    console.print(rich_table(rows, columns, title=f"annotate these of {note['num_scans']} scans of {note['place']}", digits=2))
    c = note["coverage"]
    lines = [
        f"distance of all scans to the nearest of these: {c['mean']:.2f} mean, {c['farthest']:.2f} largest; of random choices: "
        f"{c['random_mean']:.2f}, {c['random_farthest']:.2f}; 1 is a standard deviation a feature; {note['seconds'] / note['num_read']:.2f} s a scan"
    ]
    if arguments.method == "k-medoids":
        lines.append(
            "the list is made for this number of scans; with --method k-centre a shorter list is the beginning of a longer one"
        )
    if run is None:
        lines.append("no --run: the features are of a network with random weights; nothing in them was learned")
    if seen := note["seen_in_training"]:
        lines.append(f"warning: meta-training saw {', '.join(seen)}: these scans, or what a card relates to them")
    if not note["patients_known"]:
        lines.append("no card names the patients: each file counts as one patient")
    if aside := note["set_aside"]:
        name, reason = next(iter(aside.items()))
        lines.append(f"{len(aside)} scan(s) set aside, the first: {name}: {reason}")
    if arguments.out:
        lines.append(f"written: {arguments.out}")
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _predict(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .engine.model import Model, predict

    written = predict(Model.load(arguments.model, arguments.device), arguments.scans, arguments.out)
    _console().print(f"wrote {len(written)} label map(s) to {arguments.out}")


def _evaluate(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .report.tables import rich_table

    if arguments.predictions and arguments.labels:
        from .engine.evaluate import evaluate_folder

        summary = evaluate_folder(arguments.predictions, arguments.labels, arguments.out)
    elif arguments.model and arguments.dataset:
        from .engine.adapt import open_dataset
        from .engine.evaluate_model import evaluate

        summary = evaluate(arguments.model, open_dataset(arguments.dataset, arguments.cache), arguments.out, arguments.limit)
    else:
        raise UserError("expected MODEL DATASET, or --predictions DIR --labels DIR")
    rows = []
    for name, organ in summary["organs"].items():
        cells = {m: f"{organ[m]['mean']:.3f} [{organ[m]['low']:.3f}, {organ[m]['high']:.3f}]" for m in ("dice", "nsd", "hd95_mm")}
        rows.append({"organ": name, **cells, "cases": organ["num_cases"], "missed": organ["num_missed"]})
    _console().print(rich_table(rows, title="mean [95 % interval]"))
    _console().print(f"metrics.csv and summary.json: {arguments.out}")


def _bench(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .engine.bench import bench_msd, bench_supernet, report
    from .report.tables import rich_table

    if arguments.report and arguments.what != "supernet":
        raise UserError("--report is of the supernet's page alone")
    job = bench_supernet if arguments.what == "supernet" else bench_msd
    tables = report(arguments.out) if arguments.report else job(arguments.out, quick=arguments.quick)
    for title, rows in tables.items():
        _console().print(rich_table(rows, title=title))
    _console().print(f"CSV files: {arguments.out}")


def _first_run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .engine.first_run import first_run

    first_run(arguments.config, rest, report_only=arguments.report)


def _benchmark(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .engine.benchmark import benchmark, merge
    from .report.tables import rich_table

    console = _console()
    only = ["--only", arguments.only] if arguments.only else []
    if arguments.merge:
        console.print(merge(arguments.config, [*rest, *only], arguments.merge).words, highlight=False)
        return

    def show(outlook: Any) -> None:
        table = [
            {"held out": group, "method": method, "cells": number, "done": outlook.done.get((group, method), 0)}
            for (group, method), number in outlook.cells.items()
        ]
        if arguments.dry_run:
            console.print(rich_table(table))
        console.print(outlook.words, highlight=False)
        for name, why in outlook.dropped.items():
            console.print(f"left out: {name}: {why}", highlight=False)

    path = benchmark(arguments.config, [*rest, *only], report_only=arguments.report, dry_run=arguments.dry_run, before=show)
    if path:
        console.print(f"report: {path}; rows: {path.with_name('results.csv')}")


def _unnas(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .engine.unnas import merge, unnas
    from .report.tables import rich_table

    console = _console()
    if arguments.merge:
        console.print(merge(arguments.config, rest, arguments.merge).words, highlight=False)
        return

    def show(outlook: Any) -> None:
        if arguments.dry_run:
            table = [{"task": task, "cells": n, "done": outlook.done.get(task, 0)} for task, n in outlook.cells.items()]
            console.print(rich_table(table))
        console.print(
            f"{sum(outlook.cells.values())} cells, {sum(outlook.done.values())} done; predicted for the rest: {outlook.hours:.1f} hours",
            highlight=False,
        )

    path = unnas(arguments.config, rest, report_only=arguments.report, dry_run=arguments.dry_run, before=show)
    if path:
        console.print(f"report: {path}; rows: {path.with_name('unnas.csv')}")


def _demo(arguments: argparse.Namespace, rest: list[str]) -> None:
    from .engine.demo import demo

    demo(arguments.config, rest, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
