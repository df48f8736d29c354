"""The demo: a start that was meta-trained on many phantom organs is continued, adapted to held-out organs, and compared.

Iterations, not seconds, decide what is trained, so a busy machine changes the time and not the result.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from ..data.cache import prepare
from ..data.cached import CachedDataset, open_cache
from ..data.phantom_family import HELD_OUT, TRAINING, make_family
from ..engine.adapt import AdaptSettings, adapt, adapt_episode, score
from ..engine.checkpoint import load_state
from ..engine.meta_run import MetaRun
from ..engine.meta_train import meta_train
from ..engine.model import Model
from ..engine.settings import Settings
from ..engine.starts import STARTS
from ..errors import CheckpointError
from ..files import write_csv, write_text
from ..launch import build_launcher
from ..learner import choose_runtime
from ..machine import num_cores
from ..report.statistics import Margin, paired_margin
from ..report.tables import rich_table
from ..tasks.episode import make_episode
from ..tasks.organ import task_in
from ..tracking.local import read_rows
from .demo_figure import Example, draw
from .demo_start.run import demo_settings

#: iterations that the demo continues the start for
CONTINUE = 10
#: scans of each training organ that the continuation learns from
NUM_TRAINING = 5
#: scans of each held-out organ: the last ``NUM_QUERY`` are scored, supports come from the others
NUM_CASES, NUM_QUERY = 12, 4
SHOTS, STEPS, DRAWS = (1, 5), (0, 20), 3
META, JOINT, FRESH = "meta-learned", "joint pretraining", "fresh weights"
METHODS = (META, JOINT, FRESH)
#: processes that adapt; results do not depend on their number
WORKERS = min(2, num_cores())

#: Dice by (method, shots, steps) and held-out organ: (1, draws, query scans)
Scores = dict[tuple[str, int, int], dict[str, NDArray[np.float64]]]
_Cell = tuple[str, int, int]  #: held-out organ, shots, draw
_Dice = dict[tuple[str, int], list[float]]  #: of the query scans, by method and steps


@dataclass(frozen=True)
class _Bench:
    """What every adaptation of the demo shares."""

    settings: Settings
    datasets: Mapping[str, CachedDataset]
    runs: Mapping[str, MetaRun]


def demo(config: str, overrides: Sequence[str], out: Path) -> Path:
    """Return the folder of the demo after: phantoms, prepare, continue the start, adapt and compare, one picture, one model.

    ``config`` and ``overrides`` give settings as for ``demo_start``, which made the start; another search space is refused.
    """
    console, start = Console(), time.perf_counter()
    plain: dict[str, Any] = {"highlight": False, "soft_wrap": True, "markup": False}
    settings = demo_settings(config, overrides)
    _clear(out)
    console.print(f"1/5 phantoms: {len(TRAINING)} related organs for training, {len(HELD_OUT)} held out ...")
    datasets = _make_data(out, settings.seed)
    settings = settings.model_copy(update={"cache": str(out / "cache")})
    console.print(f"2/5 continuing the shipped meta-training for {CONTINUE} iterations ...")
    console.print(_continue(settings, out / "meta"), **plain)
    found = MetaRun.load(out / "meta")
    bench = _Bench(settings, datasets, {META: found, JOINT: MetaRun.load(STARTS / "demo_joint"), FRESH: found})
    shots = " and ".join(map(str, SHOTS))
    console.print(f"3/5 adapting to {' and '.join(datasets)} from {shots} scan(s), {DRAWS} draws ...")
    scores = _compare(bench, console)
    console.print(
        rich_table(dice_table(scores), title=f"4/5 Dice on {NUM_QUERY} query scans of each held-out organ [95 % interval]")
    )
    console.print(rich_table(difference_table(scores), title="Paired differences in Dice [95 % interval]"))
    console.print(verdict(scores), highlight=False)
    write_csv(out / "dice.csv", _rows(scores))
    example = _example(bench, out / "adapted")
    draw(out / "demo.png", STEPS, _curves(scores), example)
    scan = f"{out}/data/{HELD_OUT[0].name}/imagesTr/{example.case}.nii.gz"
    console.print(f"5/5 picture: {out}/demo.png; model: {out}/adapted; table: {out}/dice.csv", **plain)
    console.print(f"    try: metanas-med predict {out}/adapted {scan} --out {out}/predictions", **plain)
    console.print(f"{time.perf_counter() - start:.0f} seconds in all")
    return out


def _clear(out: Path) -> None:
    """Remove what an earlier demo made in ``out``; CheckpointError where something else made it."""
    made = [out / name for name in ("meta", "adapted", "predictions", "data", "cache", "dice.csv", "demo.png")]
    mark = out / "demo.txt"
    if not mark.exists() and (others := [path for path in made if path.exists()]):
        raise CheckpointError(f"{others[0]} exists, and no demo made it. Choose another --out.")
    write_text(mark, "A demo made this folder. The next demo here replaces what is in it.\n")
    for path in made:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _make_data(out: Path, seed: int) -> dict[str, CachedDataset]:
    """Return the held-out data sets, prepared; those of the training organs lie in the same cache."""
    train = make_family(out / "data", TRAINING, NUM_TRAINING, seed)
    prepare([*train, *make_family(out / "data", HELD_OUT, NUM_CASES, seed)], out / "cache")
    return {organ.name: open_cache(out / "cache" / f"{organ.name}.h5") for organ in HELD_OUT}


def _continue(settings: Settings, folder: Path) -> str:
    """Meta-train ``CONTINUE`` iterations from a copy of the shipped start; return a line on the losses."""
    done = load_state(STARTS / "demo", "last", "meta-state")[1]["iteration"]
    folder.mkdir(parents=True)
    for path in (STARTS / "demo").iterdir():
        shutil.copyfile(path, folder / path.name)
    meta = settings.meta.model_copy(update={"iterations": done + CONTINUE})
    meta_train(settings.model_copy(update={"meta": meta}), folder, resume=True)
    losses = " ".join(f"{row['loss']:.2f}" for row in read_rows(folder / "iteration.jsonl"))
    return f"    iterations {done + 1} to {done + CONTINUE}; loss of each: {losses}"


def _split(dataset: CachedDataset, shots: int, number: int) -> tuple[list[str], list[str]]:
    """Return the support of a draw and the query scans, which are the same for every draw."""
    names = [case.name for case in dataset.cases]
    pool, query = names[:-NUM_QUERY], names[-NUM_QUERY:]
    order = np.random.default_rng([shots, number]).permutation(len(pool))
    return [pool[int(i)] for i in order[:shots]], query


def _compare(bench: _Bench, console: Console) -> Scores:
    """Return the Dice of every method after every number of steps; all methods see the same scans."""
    found: dict[tuple[str, int, int], dict[str, list[list[float]]]] = {}
    cells = [(name, shots, number) for name in bench.datasets for shots in SHOTS for number in range(DRAWS)]
    results = track(_run(bench, cells), "adapting", len(cells), console=console, disable=not console.is_terminal, transient=True)
    for (name, shots, number), dice in zip(cells, results, strict=True):
        for (method, steps), values in dice.items():
            found.setdefault((method, shots, steps), {}).setdefault(name, []).append(values)
        if number == DRAWS - 1:
            means = [f"{method} {np.mean(found[method, shots, STEPS[-1]][name]):.3f}" for method in METHODS]
            console.print(
                f"    {name}, scans: {shots}. Dice after {STEPS[-1]} steps: {', '.join(means)}", highlight=False, soft_wrap=True
            )
    return {key: {name: np.array([rows]) for name, rows in sets.items()} for key, sets in found.items()}


def _run(bench: _Bench, cells: Sequence[_Cell]) -> Iterator[_Dice]:
    """Yield the result of each cell in order, from ``WORKERS`` processes of one thread each; from this one where that is one."""
    launcher = build_launcher("serial" if WORKERS < 2 else "processes", WORKERS)
    yield from launcher.map(partial(_cell, bench), cells)


def _cell(bench: _Bench, cell: _Cell) -> _Dice:
    """Return the Dice of the query scans by method and steps, for one draw of support scans."""
    name, shots, number = cell
    torch.set_num_threads(1)
    dice: _Dice = {}
    for method in METHODS:
        for steps in STEPS:
            model, query = _fit(bench, name, method, shots, number, steps)
            dice[method, steps] = [one["organ"] for one in score(model, bench.datasets[name], query).values()]
    return dice


def _fit(bench: _Bench, name: str, method: str, shots: int, number: int, steps: int) -> tuple[Model, list[str]]:
    """Return the model that ``method`` reaches from one draw's support, and the query scans."""
    dataset, settings = bench.datasets[name], bench.settings
    run = bench.runs[method]
    if method == FRESH:  # every draw has weights of its own
        run = run.fresh(settings.seed + 1000 + number)
    support, query = _split(dataset, shots, number)
    plan = settings.plan.of_adapt()
    episode = make_episode(dataset, task_in(dataset), support, [], plan, settings.space.levels)
    learner = settings.adapt.model_copy(update={"steps": steps})
    runtime = choose_runtime(settings.device, settings.precision)
    return adapt_episode(run, episode, learner, plan, settings.seed + number, runtime)[0], query


def interval(values: Mapping[str, NDArray[np.float64]]) -> Margin:
    """Return the mean of (1, draws, query scans) by organ with its 95 % interval over draws and scans."""
    return paired_margin(values)


def difference(scores: Scores, other: str, shots: int, steps: int) -> Margin:
    """Return the paired difference in Dice of the meta-learned start minus ``other``."""
    ours, theirs = scores[META, shots, steps], scores[other, shots, steps]
    return paired_margin({name: ours[name] - theirs[name] for name in ours})


def dice_table(scores: Scores) -> list[dict[str, Any]]:
    """Return a row for each number of scans and steps: the mean Dice of each method with its interval."""
    return [
        {"scans": shots, "steps": steps} | {method: _text(interval(scores[method, shots, steps]), ".2f") for method in METHODS}
        for shots in SHOTS
        for steps in STEPS
    ]


def difference_table(scores: Scores) -> list[dict[str, Any]]:
    """Return a row for each number of scans and steps: the meta-learned start minus each other method."""
    return [
        {"scans": shots, "steps": steps}
        | {f"minus {other}": _text(difference(scores, other, shots, steps), "+.3f") for other in METHODS[1:]}
        for shots in SHOTS
        for steps in STEPS
    ]


def _text(margin: Margin, form: str) -> str:
    low, mean, high = (f"{value:{form}}" for value in (margin.low, margin.mean, margin.high))
    return f"{mean} [{low}, {high}]"


def verdict(scores: Scores) -> str:
    """Return in words where the meta-learned start differs from the other methods by more than the interval."""
    parts = []
    for other in METHODS[1:]:
        margins = [difference(scores, other, shots, steps) for shots in SHOTS for steps in STEPS]
        better = sum(m.beyond_noise and m.mean > 0 for m in margins)
        worse = sum(m.beyond_noise and m.mean < 0 for m in margins)
        level = len(margins) - better - worse
        parts.append(f"against {other} it is better in {better} of {len(margins)} settings, level in {level}, worse in {worse}")
    return (
        f"The meta-learned start on organs that it never saw: {'; '.join(parts)}. Better and worse mean that the 95 % interval of the "
        "paired difference excludes zero. The intervals cover draws and scans, not the seed of meta-training."
    )


def _rows(scores: Scores) -> list[dict[str, Any]]:
    return [
        {
            "method": method,
            "shots": shots,
            "steps": steps,
            "organ": name,
            "draw": d,
            "query": q,
            "dice": round(float(values[0, d, q]), 5),
        }
        for (method, shots, steps), sets in scores.items()
        for name, values in sets.items()
        for d, q in np.ndindex(*values.shape[1:])
    ]


def _curves(scores: Scores) -> dict[int, dict[str, list[Margin]]]:
    """Return by number of scans and method the mean Dice after each number of steps."""
    return {k: {method: [interval(scores[method, k, s]) for s in STEPS] for method in METHODS} for k in SHOTS}


def _example(bench: _Bench, out: Path) -> Example:
    """Write the adapted model of the first held-out organ to ``out``; return a query scan with what it and fresh weights find."""
    name, shots, steps = HELD_OUT[0].name, max(SHOTS), max(STEPS)
    dataset, settings = bench.datasets[name], bench.settings
    support, query = _split(dataset, shots, 0)
    learner = settings.adapt.model_copy(update={"steps": steps})
    own = AdaptSettings(
        support=tuple(support),
        seed=settings.seed,
        evaluate=1,
        learner=learner,
        plan=settings.plan.of_adapt(),
        device=settings.device,
        precision=settings.precision,
    )
    adapt(bench.runs[META], dataset, out, own)
    models = {META: Model.load(out), FRESH: _fit(bench, name, FRESH, shots, 0, steps)[0]}
    case = next(c for c in dataset.cases if c.name == query[0])
    image = dataset.image(case.name)
    found = {method: model.segment(image, case.spacing) for method, model in models.items()}
    return Example(case.name, image[0], dataset.label(case.name), found, f"{name}, {shots} scans, {steps} steps")
