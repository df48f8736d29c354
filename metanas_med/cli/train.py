"""Commands that learn: meta-train, search, adapt."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .common import Commands, add_config, at_least, names_of, progress

if TYPE_CHECKING:
    from ..config import Settings

#: scans that ``adapt`` draws where nothing is said
_SHOTS = 5
#: steps that the benchmark's organs had most Dice after, from so many scans; from one they helped fewer
_LONGER = 400


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to the parser."""
    _add_meta_train(commands)
    _add_search(commands)
    _add_adapt(commands)


def _add_meta_train(commands: Commands) -> None:
    sub = commands.add(
        "meta-train",
        _meta_train,
        "learn weights and architecture over organ tasks; --section.key value sets any setting",
        "config:Settings",
    )
    _add_training(sub, "meta_train", Path("runs/meta"))


def _add_training(sub: argparse.ArgumentParser, config: str, out: Path) -> None:
    """Add the arguments of a meta-training, with labels or without."""
    add_config(sub, config)
    sub.add_argument("--out", type=Path, default=out, help=f"folder of the run (default {out})")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out from its last checkpoint")
    sub.add_argument(
        "--track",
        choices=["local", "wandb"],
        default="local",
        help="wandb: mirror the metrics to Weights & Biases (default local)",
    )


def _training_settings(arguments: argparse.Namespace, rest: list[str]) -> Settings:
    from ..config import load_settings
    from ..resources import find_resource

    tracking = ["--track.wandb", "true"] if arguments.track == "wandb" else []
    return load_settings(find_resource("configs", arguments.config), [*rest, *tracking])


def _meta_train(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..engine.meta_train import meta_train

    settings = _training_settings(arguments, rest)
    folder = meta_train(settings, arguments.out, arguments.resume)
    print(f"meta-trained: {folder} (last, best, iteration.csv, figures)")


def _add_search(commands: Commands) -> None:
    sub = commands.add(
        "search",
        _search,
        "learn an architecture and its weights from unlabelled scans; --section.key value sets any setting",
        "config:Settings",
    )
    sub.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="folders of scans; labels are not read")
    sub.add_argument("--pretext", help="the label-free task, or several by comma, which take turns")
    sub.add_argument("--cache", type=Path, help="where a folder of their images is kept")
    _add_training(sub, "search", Path("runs/search"))


def _search(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..engine.search import search

    settings = _training_settings(arguments, rest)
    folder = search(settings, arguments.datasets, arguments.out, names_of(arguments.pretext), arguments.cache, arguments.resume)
    print(f"searched without labels: {folder} (last, architecture.json, architecture.svg, iteration.csv, figures)")


def _add_adapt(commands: Commands) -> None:
    sub = commands.add(
        "adapt",
        _adapt,
        "fit an organ from a few annotated scans; --adapt.key and --plan.key set the learner and the plan",
        "config:Settings",
    )
    sub.add_argument("meta_run", type=Path, metavar="RUN", help="folder of a meta-training or search")
    sub.add_argument("dataset", type=Path, metavar="DATASET", help="a folder in MSD layout, or a prepared .h5")
    sub.add_argument("--organ", default="all", help="a name, several by comma, a union by +, or all")
    sub.add_argument("--shots", type=int, help=f"patients to draw as support (default {_SHOTS})")
    sub.add_argument("--steps", type=at_least(0), help="gradient steps (default: adapt.steps of the run)")
    sub.add_argument("--support", help="case names by comma, instead of a draw")
    sub.add_argument("--seed", type=at_least(0), default=0, help="of the draw of the support and of all else (default 0)")
    sub.add_argument(
        "--evaluate",
        type=at_least(0),
        default=5,
        help="how many labelled scans that are left to score before and after (default 5)",
    )
    sub.add_argument(
        "--unlabelled", type=Path, metavar="FOLDER", help="scans without labels, to learn from before the annotated ones"
    )
    sub.add_argument("--pretext", help="the label-free task for them, or several by comma")
    sub.add_argument("--unlabelled-steps", type=at_least(1), help="gradient steps on them")
    sub.add_argument("--checkpoint", choices=["last", "best"], default="last", help="of the meta-training (default last)")
    sub.add_argument("--cache", type=Path, help="where a data set folder is prepared to (default ~/.cache/metanas_med)")
    sub.add_argument("--out", type=Path, required=True, help="folder of the model")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _adapt(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..config import LearnerSettings, PlanSettings, override
    from ..engine.adapt import MetaRun, adapt, open_dataset
    from ..engine.scans import open_scans
    from ..pretext import check_pretexts

    if arguments.support and arguments.shots is not None:
        raise UserError("--shots has no effect beside --support, which names the scans. Give one of the two.")
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
    steps = learner.steps if arguments.steps is None else arguments.steps
    with progress("steps") as on_step:
        note = adapt(
            run,
            open_dataset(arguments.dataset, arguments.cache),
            arguments.out,
            arguments.organ,
            _SHOTS if arguments.shots is None else arguments.shots,
            arguments.steps,
            seed=arguments.seed,
            support=names_of(arguments.support) or None,
            evaluate=arguments.evaluate,
            learner=learner,
            plan=plan,
            device=arguments.device,
            precision=settings.precision,
            unlabelled=open_scans(arguments.unlabelled, arguments.cache) if arguments.unlabelled else None,
            pretext=settings.pretext,
            on_step=lambda step, loss: on_step(step + 1, steps),
        )
    _tell_adaptation(note, arguments.out)


def _tell_adaptation(note: dict[str, Any], out: Path) -> None:
    if found := note.get("unlabelled"):
        print(
            f"first learned from {found['num_scans']} unlabelled scan(s) by {', '.join(found['pretexts'])}: {found['steps']} steps, "
            f"{found['seconds']:.1f} s; {found['set_aside']} set aside, {len(found['same_as_support'])} left out as support"
            + (f"; transductive: {len(found['same_as_scored'])} of them are scored below" if found["transductive"] else "")
        )
    report = note["report"]
    print(
        f"adapted to {', '.join(note['organs'])} from {len(note['support'])} scan(s), {report['steps']} steps, {note['seconds']:.1f} s"
    )
    if note["dice_after"] is None:
        print("no labelled scan of another patient was scored: none is left, or --evaluate is 0")
    else:
        print(f"Dice on {len(note['scored'])} held-back scans: {note['dice_before']:.3f} before, {note['dice_after']:.3f} after")
    if report["gap_at_switch"] is not None:
        print(
            f"alpha: top probability {report['top_probability_mean']:.2f} mean, {report['top_probability_min']:.2f} least; Dice soft minus "
            f"discrete {report['gap_at_switch']:+.3f} at the switch, {report['gap_at_end']:+.3f} at the end; split: {report['alpha_split']}"
        )
    if not note["patients_known"]:
        print("no card names the patients of this data set: each file counted as one patient")
    if len(note["support"]) >= _SHOTS and 0 < report["steps"] < _LONGER:
        minutes = math.ceil(report["seconds"] / report["steps"] * _LONGER / 60)
        print(
            f"more steps help most organs from {_SHOTS} scans (docs/results.md): --steps {_LONGER} would take about {minutes} min here"
        )
    print(f"model, architecture, adaptation.json and overlay.png: {out}")


def _check_sections(flags: Sequence[str], sections: Sequence[str], keys: Sequence[str]) -> None:
    """Raise UserError for a setting that the command would not look at."""
    for flag in flags:
        name = flag[2:].partition("=")[0]
        if flag.startswith("--") and name.partition(".")[0] not in sections and name not in keys:
            allowed = ", ".join([*(f"--{s}.*" for s in sections), *(f"--{k}" for k in keys)])
            raise UserError(
                f"{flag} has no effect here: the run's own settings hold. Expected one of {allowed}, or an option of --help."
            )
