"""Commands that use a trained network: suggest, predict, evaluate."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from .common import Commands, add_reading, at_least, open_console, owning, progress, reading_of


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to the parser."""
    _add_suggest(commands)
    _add_predict(commands)
    _add_evaluate(commands)


def _add_suggest(commands: Commands) -> None:
    sub = commands.add("suggest", _suggest, "choose the few unlabelled scans to annotate whose features best represent the rest")
    sub.add_argument("scans", type=Path, metavar="FOLDER", help="folder in MSD layout or of NIfTI files, or a prepared .h5 file")
    sub.add_argument("--shots", type=at_least(1), default=5, help="number of scans to choose (default: 5)")
    sub.add_argument(
        "--run",
        dest="meta_run",
        metavar="RUN",
        help="a shipped start, or the folder of a meta-training (default: random weights)",
    )
    sub.add_argument(
        "--method",
        choices=["k-medoids", "k-centre"],
        default="k-medoids",
        help="minimise the mean (k-medoids, the default) or the largest (k-centre) distance of scans to the nearest chosen one",
    )
    sub.add_argument(
        "--modality", choices=["CT", "MR", "PET", "US"], help="modality of the scans, if no dataset.json or card gives it"
    )
    sub.add_argument(
        "--checkpoint", choices=["last", "best"], default="last", help="checkpoint of the meta-training (default: last)"
    )
    add_reading(sub, "follow_links")
    sub.add_argument(
        "--out", type=Path, help="also write the ranking to this .json or .csv file; it names the scans and is not for sharing"
    )
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def _suggest(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..engine.meta_run import MetaRun
    from ..engine.suggest import suggest_scans
    from ..report.tables import rich_table

    console = open_console()
    run = MetaRun.open(arguments.meta_run, arguments.checkpoint) if arguments.meta_run is not None else None
    if arguments.out and arguments.out.name == "dataset.json":
        raise UserError(f"{arguments.out} would replace a data set's own file. Choose another --out.")
    with progress("features") as on_scan:
        note = suggest_scans(
            arguments.scans,
            arguments.shots,
            run,
            arguments.method,
            modality=arguments.modality,
            out=arguments.out,
            device=arguments.device,
            on_scan=on_scan,
            options=reading_of(arguments),
        )
    columns = {"rank": "rank", "scan": "scan", "share": "represents", "mean_distance": "mean distance", "farthest": "farthest"}
    rows = [{**row, "share": f"{100 * row['share']:.0f} %"} for row in note["ranking"]]
    console.print(rich_table(rows, columns, title=f"annotate these of {note['num_scans']} scans of {note['place']}", digits=2))
    c = note["coverage"]
    lines = [
        f"distance of all scans to the nearest of these: {c['mean']:.2f} mean, {c['farthest']:.2f} largest "
        f"(random choices: {c['random_mean']:.2f}, {c['random_farthest']:.2f}; the unit is one standard deviation per feature)",
        f"time per scan: {note['seconds'] / note['num_read']:.2f} s",
    ]
    if arguments.method == "k-medoids":
        lines.append(
            "the choice is made for this number of scans; with --method k-centre a shorter list is the start of a longer one"
        )
    if run is None:
        lines.append("no --run: the features come from a network with random weights")
    if seen := note["seen_in_training"]:
        lines.append(f"warning: meta-training saw {', '.join(seen)}: these scans, or data sets related to them")
    if not note["patients_known"]:
        lines.append("no card names the patients: each file counts as one patient")
    if aside := note["set_aside"]:
        name, reason = next(iter(aside.items()))
        lines.append(f"{len(aside)} scan(s) set aside, the first: {name}: {reason}")
    if arguments.out:
        lines.append(f"written: {arguments.out}")
    for line in lines:
        print(line)


def _add_predict(commands: Commands) -> None:
    sub = commands.add("predict", _predict, "segment scans with an adapted model, in their own geometry", stopped=_predict_hint)
    sub.add_argument(
        "model", type=Path, metavar="MODEL", help="folder written by adapt; several models of one organ are averaged: A B C SCANS"
    )
    sub.add_argument(
        "scans",
        nargs="+",
        type=Path,
        metavar="SCAN_OR_FOLDER",
        help="scan (.nii.gz, .nii, .nrrd, .mha, folder of a DICOM series), folder of scans, or data set (imagesTs, else imagesTr)",
    )
    sub.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the label maps, which have the names of the scans; for one scan also a file (.nii.gz)",
    )
    sub.add_argument("--overwrite", action="store_true", help="replace existing label maps")
    sub.add_argument("--skip-existing", action="store_true", help="skip scans whose label map exists, to continue a stopped run")
    sub.add_argument("--skip-bad", action="store_true", help="leave out scans that cannot be read instead of stopping")
    sub.add_argument(
        "--probabilities",
        action="store_true",
        help="also write OUT/probabilities/NAME.nii.gz: the probabilities of background and organs along the fourth axis",
    )
    sub.add_argument("--volumes", type=Path, metavar="FILE.csv", help="also write a table: ml, pieces, contact with the border")
    sub.add_argument(
        "--dicom-seg",
        action="store_true",
        help="also write OUT/NAME.dcm, a DICOM segmentation, for scans that are folders of DICOM files (extra dicom); it names the "
        "patient",
    )
    sub.add_argument("--part", type=_part, default=(1, 1), metavar="I/N", help="segment only the I-th of N parts of the scans")
    _add_tta(sub)
    add_reading(sub, "any_intensities")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def _predict_hint(arguments: argparse.Namespace, typed: str) -> str:
    skip = "" if arguments.skip_existing or arguments.overwrite else " --skip-existing"
    return f"label maps in {arguments.out} are complete. To go on: {typed}{skip}"


def _predict(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..engine.committee import Committee
    from ..engine.predict_scans import BadScans, PredictOptions, predict

    models, scans = _models_and_scans([arguments.model, *arguments.scans])
    committee = Committee.load(models, arguments.device)
    writer = None
    if arguments.dicom_seg:
        from ..export.dicom_seg import dicom_seg_writer

        writer = dicom_seg_writer(committee.first, models[0])
    options = PredictOptions(
        overwrite=arguments.overwrite,
        skip_bad=arguments.skip_bad,
        skip_existing=arguments.skip_existing,
        tta=arguments.tta,
        any_intensities=arguments.any_intensities,
        probabilities=arguments.probabilities,
        volumes=arguments.volumes,
        part=arguments.part,
        also=writer,
    )
    try:
        with progress("scans") as on_scan:
            written = predict(committee, scans, arguments.out, options, on_scan=on_scan)
    except BadScans as error:
        if len(error.problems) > 1:
            print("\n".join(("cannot be segmented:", *error.problems)))
        raise
    print(f"wrote {len(written)} label map(s) to {arguments.out}")


def _models_and_scans(given: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return the models and the scans of a command line: the first entry, and all folders of models that follow it, are models."""
    number = 1
    while number < len(given) and (given[number] / "model.json").is_file():
        number += 1
    if number == len(given):
        raise UserError(f"{' '.join(map(str, given))}: these are models; expected scans after them")
    return given[:number], given[number:]


def _part(text: str) -> tuple[int, int]:
    """Return (i, n) of ``i/n``; an argparse type."""
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"found {text}, expected i/n with i from 1 to n, such as 1/4")
    return int(number), int(of)


def _add_evaluate(commands: Commands) -> None:
    sub = commands.add(
        "evaluate",
        owning(_evaluate),
        "compute Dice, NSD and HD95 of a model on a data set, or of a folder of predictions",
        stopped=lambda arguments, typed: f"nothing was written to {arguments.out}. To start again: {typed}",
    )
    sub.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="folder written by adapt")
    sub.add_argument(
        "dataset",
        type=Path,
        nargs="?",
        metavar="DATASET",
        help="folder in MSD layout, or a prepared .h5 file, with the model's organs",
    )
    sub.add_argument("--predictions", type=Path, help="folder of label maps to score, instead of MODEL and DATASET")
    sub.add_argument("--labels", type=Path, help="folder of the true label maps, with the same names as the predictions")
    sub.add_argument("--limit", type=at_least(1), help="score only this many scans, the first ones (default: all)")
    sub.add_argument("--cache", type=Path, help="cache for a data set folder (default: ~/.cache/metanas_med)")
    _add_tta(sub)
    add_reading(sub)
    sub.add_argument("--out", type=Path, required=True, help="folder for metrics.csv and summary.json")


def _add_tta(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--tta",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="test-time augmentation: average over slightly rotated and scaled copies of a scan; takes five times as long "
        "(default: as the model says)",
    )


def _evaluate(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..report.tables import rich_table

    of_folders = {"--predictions": arguments.predictions, "--labels": arguments.labels}
    of_model = {"MODEL": arguments.model, "DATASET": arguments.dataset}
    only_of_model = {"--limit": arguments.limit, "--cache": arguments.cache}
    only_of_model |= {"--tta": arguments.tta, "--no-tta": arguments.tta is False}
    only_of_model |= {"--follow-links": arguments.follow_links, "--any-intensities": arguments.any_intensities}
    for needed, foreign in ((of_folders, of_model | only_of_model), (of_model, of_folders)):
        if all(needed.values()) and (left := [name for name, value in foreign.items() if value]):
            raise UserError(f"{', '.join(left)} would have no effect with {' and '.join(needed)}. Remove one or the other.")
    if all(of_folders.values()):
        from ..engine.evaluate import evaluate_folder

        summary = evaluate_folder(arguments.predictions, arguments.labels, arguments.out, options=reading_of(arguments))
    elif all(of_model.values()):
        from ..engine.evaluate_model import evaluate
        from ..engine.support import open_dataset

        data = open_dataset(arguments.dataset, arguments.cache, reading_of(arguments), skip_bad=arguments.limit is not None)
        summary = evaluate(
            arguments.model, data, arguments.out, arguments.limit, arguments.tta, any_intensities=arguments.any_intensities
        )
    else:
        raise UserError("expected MODEL DATASET, or --predictions DIR --labels DIR")
    rows = []
    for name, organ in summary["organs"].items():
        cells = {m: f"{organ[m]['mean']:.3f} [{organ[m]['low']:.3f}, {organ[m]['high']:.3f}]" for m in ("dice", "nsd", "hd95_mm")}
        rows.append({"organ": name, **cells, "cases": organ["num_cases"], "missed": organ["num_missed"]})
    open_console().print(rich_table(rows, title="mean [95 % interval]"))
    for organ, (number, total) in summary.get("annotated", {}).items():
        print(f"{number} of {total} scans annotate {organ}")
    if unused := summary.get("num_not_annotated_left_out"):
        print(f"{unused} scan(s) that annotate none of the model's organs were left out")
    if left_out := summary.get("num_support_left_out"):
        print(f"{left_out} scan(s) of support patients were left out")
    elif "num_support_left_out" not in summary:
        print("check that no scan was used to fit the model: see 'support' in its adaptation.json (names: cases.private.json)")
    print(f"wrote metrics.csv and summary.json to {arguments.out} (names of its cases: cases.private.json, not to be shared)")
