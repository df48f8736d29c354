"""Commands that learn: meta-train, search, adapt."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .common import Commands, add_config, add_reading, at_least, names_of, owning, reading_of
from .minutes import add_minutes, check_minutes, duration, minutes_hint, run_minutes, split_flags, tell_minutes

if TYPE_CHECKING:
    from ..engine.adapt import Outlook
    from ..engine.settings import Settings

#: default number of support scans that ``adapt`` draws
_SHOTS = 5
#: number of steps with the highest Dice on the benchmark's organs from that many scans; from one scan fewer organs gained
_LONGER = 400


#: settings that have their own option in ``adapt``
_ADAPT_OPTIONS = {"adapt.steps": "--steps or --minutes", "pretext.names": "--pretext", "pretext.steps": "--unlabelled-steps"}


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to the parser."""
    _add_meta_train(commands)
    _add_search(commands)
    _add_adapt(commands)


def _add_meta_train(commands: Commands) -> None:
    sub = commands.add(
        "meta-train",
        owning(_meta_train),
        "learn weights and an architecture from organ tasks; --section.key value sets any setting",
        "engine.settings:Settings",
        _resume_hint,
    )
    _add_training(sub, "meta_train", Path("runs/meta"))


def _add_training(sub: argparse.ArgumentParser, config: str, out: Path) -> None:
    """Add the arguments of a meta-training, with or without labels."""
    add_config(sub, config)
    sub.add_argument("--out", type=Path, default=out, help=f"folder of the run (default {out})")
    sub.add_argument("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    _add_no_images(sub)


def _add_no_images(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--no-images", action="store_true", help="draw and send no picture of a scan")


def _resume_hint(arguments: argparse.Namespace, typed: str) -> str:
    try:
        iteration = json.loads((arguments.out / "last.json").read_text())["iteration"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{arguments.out} holds no checkpoint yet. To start again: {typed}"
    resume = "" if arguments.resume else " --resume"
    return f"iteration {iteration} is saved in {arguments.out}. To go on: {typed}{resume}"


def _adapt_hint(arguments: argparse.Namespace, typed: str) -> str:
    if arguments.minutes is not None:
        return minutes_hint(arguments, typed)
    if (arguments.out / "model.json").exists():
        return f"the model is complete in {arguments.out}"
    return f"nothing was written to {arguments.out}. To start again: {typed}"


def _training_settings(arguments: argparse.Namespace, rest: list[str]) -> Settings:
    from ..engine.settings import load_settings
    from ..resources import find_resource

    no_images = ["--track.images", "false"] if arguments.no_images else []
    return load_settings(find_resource("configs", arguments.config), [*rest, *no_images])


def _meta_train(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..engine.meta_train import meta_train

    settings = _training_settings(arguments, rest)
    folder = meta_train(settings, arguments.out, arguments.resume)
    print(f"meta-trained: {folder} (last, best, iteration.csv, figures)")
    _tell_alphas(folder)


def _tell_alphas(folder: Path) -> None:
    """Print which rows of alphas the run in ``folder`` could not decide."""
    from ..engine.meta_run import MetaRun

    learned = MetaRun.load(folder).learned
    if learned and learned.sentence:
        print(learned.sentence)


def _add_search(commands: Commands) -> None:
    sub = commands.add(
        "search",
        owning(_search),
        "learn an architecture and its weights from unlabelled scans; --section.key value sets any setting",
        "engine.settings:Settings",
        _resume_hint,
    )
    sub.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="folders of scans; labels are not read")
    sub.add_argument(
        "--pretext", help=f"label-free task, or several separated by commas, which alternate: {', '.join(_pretext_names())}"
    )
    sub.add_argument("--cache", type=Path, help="folder for the prepared images (default ~/.cache/metanas_med)")
    add_reading(sub, "follow_links", "any_intensities")
    _add_training(sub, "search", Path("runs/search"))


def _pretext_names() -> list[str]:
    """Return the names of the pretexts of the package, read from its files: importing them takes longer than --help may."""
    folder = Path(__file__).parents[1] / "pretext"
    names = (
        re.findall(r'^@register_pretext\(\s*"([^"]+)"', path.read_text(encoding="utf-8"), re.M) for path in folder.glob("*.py")
    )
    return sorted(name for found in names for name in found)


def _search(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..engine.search import search_architecture

    settings = _training_settings(arguments, rest)
    folder = search_architecture(
        settings,
        arguments.datasets,
        arguments.out,
        names_of(arguments.pretext),
        arguments.cache,
        arguments.resume,
        reading_of(arguments),
    )
    print(f"searched without labels: {folder} (last, architecture.json, architecture.svg, iteration.csv, figures)")
    _tell_alphas(folder)


def _add_adapt(commands: Commands) -> None:
    sub = commands.add(
        "adapt",
        owning(_adapt),
        "fit an organ from a few annotated scans; --adapt.key and --plan.key set the learner and the plan",
        "engine.settings:Settings",
        _adapt_hint,
    )
    # as text: ./default is a folder, default a shipped start
    sub.add_argument("meta_run", metavar="RUN", help="a shipped start (default), or the folder of a meta-training or search")
    sub.add_argument("dataset", type=Path, metavar="DATASET", help="a folder in MSD layout, or a prepared .h5")
    sub.add_argument("--organ", default="all", help="a name, several separated by commas, a union joined by +, or all (default)")
    sub.add_argument(
        "--shots", type=int, help=f"number of patients to draw as support (default {_SHOTS}, or all if there are fewer)"
    )
    sub.add_argument("--steps", type=at_least(0), help="gradient steps (default: adapt.steps of the run)")
    add_minutes(sub)
    sub.add_argument("--support", help="names of the support cases, separated by commas, instead of a random draw")
    sub.add_argument("--seed", type=at_least(0), default=0, help="random seed of the support draw and the training (default 0)")
    sub.add_argument(
        "--evaluate",
        type=at_least(0),
        default=5,
        help="number of remaining labelled scans to score before and after (default 5)",
    )
    sub.add_argument(
        "--unlabelled", type=Path, metavar="FOLDER", help="scans without labels to learn from before the annotated ones"
    )
    sub.add_argument(
        "--pretext",
        help=f"label-free task for the unlabelled scans, or several separated by commas: {', '.join(_pretext_names())}",
    )
    sub.add_argument("--unlabelled-steps", type=at_least(1), help="gradient steps on the unlabelled scans")
    sub.add_argument("--checkpoint", choices=["last", "best"], default="last", help="checkpoint of RUN (default last)")
    sub.add_argument("--cache", type=Path, help="folder for the prepared data set (default ~/.cache/metanas_med)")
    sub.add_argument("--out", type=Path, required=True, help="folder for the model")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    _add_no_images(sub)
    add_reading(sub)


def _adapt(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..config import override
    from ..engine.adapt import AdaptSettings, adapt
    from ..engine.meta_run import MetaRun
    from ..engine.progress import Progress
    from ..engine.scans import open_scans
    from ..engine.support import open_dataset
    from ..pretext import check_pretexts

    if arguments.support and arguments.shots is not None:
        raise UserError("--shots has no effect with --support, which names the scans. Give one of the two.")
    of_minutes, rest = split_flags(rest)
    check_minutes(arguments, of_minutes)
    reading = reading_of(arguments)
    run = MetaRun.open(arguments.meta_run, arguments.checkpoint)
    label_free = {"names": arguments.pretext and f"[{arguments.pretext}]", "steps": arguments.unlabelled_steps}
    pairs = [text for key, value in label_free.items() if value is not None for text in (f"--pretext.{key}", str(value))]
    if pairs and not arguments.unlabelled:
        raise UserError("--pretext and --unlabelled-steps need --unlabelled FOLDER, the scans to learn from")
    _check_sections(rest, ("adapt", "plan", "pretext"), ("precision",), _ADAPT_OPTIONS)
    # --plan options apply to this adaptation
    own = run.settings.model_copy(update={"plan": run.settings.plan.of_adapt()})
    values = override(own, [*rest, *pairs])
    if arguments.unlabelled:
        check_pretexts(values.pretext.names)
    settings = AdaptSettings(
        organ=arguments.organ,
        shots=arguments.shots,
        support=tuple(names_of(arguments.support)),
        steps=arguments.steps,
        seed=arguments.seed,
        evaluate=arguments.evaluate,
        learner=values.adapt,
        plan=values.plan,
        pretext=values.pretext,
        device=arguments.device,
        precision=values.precision,
        any_intensities=arguments.any_intensities,
        images=not arguments.no_images,
    )
    data = open_dataset(arguments.dataset, arguments.cache, reading, skip_bad=True)
    if arguments.minutes is not None:
        _tell_adaptation(run_minutes(arguments, run, data, settings, of_minutes), arguments.out)
        return
    steps = values.adapt.steps if arguments.steps is None else arguments.steps
    with Progress("adapting", steps, transient=True) as bar:
        note = adapt(
            run,
            data,
            arguments.out,
            settings,
            unlabelled=open_scans(arguments.unlabelled, arguments.cache, reading) if arguments.unlabelled else None,
            on_start=_show_outlook,
            on_step=lambda step, loss: bar.update(step + 1, figures={"loss": loss}),
        )
    _tell_adaptation(note, arguments.out)


def _show_outlook(outlook: Outlook) -> None:
    """Print what an adaptation will do, and how long it will take."""
    spacing = " x ".join(f"{size:.3g}" for size in outlook.spacing)
    view = " x ".join(str(size) for size in outlook.view)
    first = f"{outlook.num_unlabelled_steps} label-free steps, then " if outlook.num_unlabelled_steps else ""
    channels = f" of {' + '.join(outlook.channels)}" if len(outlook.channels) > 1 else ""
    found = f"{len(outlook.support)} scan(s){channels}: {', '.join(outlook.support)}"
    print(f"will adapt to {', '.join(outlook.organs)} from {found}")
    print(
        f"will take {first}{outlook.steps} steps on views of {view} voxels of {spacing} mm, on {outlook.device}: about "
        f"{duration(outlook.seconds)}; then score {outlook.num_scored} other scan(s)",
        flush=True,
    )


def _tell_adaptation(note: dict[str, Any], out: Path) -> None:
    from ..engine.seen import seen_line
    from ..learner.evidence import apart_line

    if found := note.get("unlabelled"):
        print(
            f"first learned from {found['num_scans']} unlabelled scan(s) by {', '.join(found['pretexts'])}: "
            f"{found['steps']} steps, {found['seconds']:.1f} s; {found['set_aside']} set aside, "
            f"{len(found['same_as_support'])} left out as support"
            + (f"; transductive: {len(found['same_as_scored'])} of them are scored below" if found["transductive"] else "")
        )
    report = note["report"]
    print(
        f"adapted to {', '.join(note['organs'])} from {len(note['support'])} scan(s), "
        f"{report['steps']} steps, {note['seconds']:.1f} s"
    )
    for kind, counts in note.get("annotated", {}).items():
        for organ, (number, total) in counts.items():
            print(f"{number} of {total} {kind} scans annotate {organ}")
    if note["dice_after"] is None:
        print("no labelled scan of another patient was scored: none is left, or --evaluate is 0")
    else:
        print(f"Dice on {len(note['scored'])} held-back scans: {note['dice_before']:.3f} before, {note['dice_after']:.3f} after")
    if seen := note.get("start_has_seen"):
        print(seen_line(seen))
    if report["undecided"] is not None:
        print(apart_line(report["undecided"], report["num_rows"]))
    elif report["alpha"] == "frozen" and note.get("alpha_reason", "as set") != "as set":
        print(f"alpha: frozen, the architecture of the start: {note['alpha_reason']} (--adapt.alpha adapt searches)")
    if report["gap_at_switch"] is not None:
        print(
            f"alpha: top probability {report['top_probability_mean']:.2f} mean, {report['top_probability_min']:.2f} minimum; "
            f"Dice soft minus discrete {report['gap_at_switch']:+.3f} at the switch, {report['gap_at_end']:+.3f} at the end; "
            f"split: {report['alpha_split']}"
        )
    if not note["patients_known"]:
        print("no card names the patients of this data set: each file counted as one patient")
    if "minutes" in note:
        tell_minutes(note, out)
    elif len(note["support"]) >= _SHOTS and 0 < report["steps"] < _LONGER:
        minutes = math.ceil(report["seconds"] / report["steps"] * _LONGER / 60)
        print(
            f"more steps help most organs from {_SHOTS} scans (docs/results.md): "
            f"--steps {_LONGER} would take about {minutes} min here"
        )
    print(f"model, architecture, adaptation.json{' and overlay.png' if (out / 'overlay.png').exists() else ''}: {out}")
    print("to share it, leave out cases.private.json: it alone names the scans")


def _check_sections(
    flags: Sequence[str], sections: Sequence[str], keys: Sequence[str], options: Mapping[str, str] | None = None
) -> None:
    """Raise UserError for a setting that the command does not read, or that an option of the command sets."""
    for flag in flags:
        name = flag[2:].partition("=")[0]
        if option := (options or {}).get(name):
            raise UserError(f"{flag}: use {option} instead")
        if flag.startswith("--") and name.partition(".")[0] not in sections and name not in keys:
            allowed = ", ".join([*(f"--{s}.*" for s in sections), *(f"--{k}" for k in keys)])
            raise UserError(
                f"{flag} has no effect here: the run's own settings apply. "
                f"Expected one of {allowed}, or an option listed by --help."
            )
