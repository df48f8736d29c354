"""``adapt``: fit a new organ from a handful of annotated scans, starting from a meta-trained run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, SerializeAsAny

from ..config import Section
from ..data.cached import CachedDataset
from ..data.notes import warn_of_notes
from ..data.options import ReadOptions
from ..data.settings import PlanSettings
from ..data.units import usual_spacing
from ..errors import CheckpointError, DivergedError
from ..files import atomic_folder, check_folder
from ..ignored import known_only
from ..learner import LearnerReport, LearnerSettings, NonFiniteLossError, Runtime, choose_runtime
from ..learner.base import Pace, StepHook
from ..ownership import check_owned, owned
from ..pretext import check_pretexts
from ..pretext.settings import PretextSettings
from ..report.figures import overlay
from ..stopping import unstopped
from ..tasks.episode import Episode, make_episode, query_scan
from ..tasks.organ import OrganTask, organ_map, task_in
from .checkpoint import code_revision
from .configuration import Configuration
from .findings import check_support
from .fits import check_adapts
from .intensities import SupportIntensities, check_intensities
from .memory import build_real, check_adaptation
from .meta_run import MetaRun
from .model import Model, write_architecture_drawing
from .predict import predict_labels
from .run_folder import has_run
from .seen import find_seen
from .shared_note import shared_name, write_note
from .solve import Solver
from .support import annotated_counts, choose_support, held_in, open_dataset, warn_of_oddities
from .unlabelled import learn_from
from .validate import dice


class AdaptSettings(Section):
    """What to fit, from which scans, and how. None means the value in the run's settings."""

    organ: str = "all"  #: a name, several separated by commas, a union joined by +, or all
    shots: int | None = None  #: number of patients to draw as support; None: 5, or all if there are fewer
    support: tuple[str, ...] = ()  #: names of the support cases, instead of a random draw
    steps: int | None = Field(default=None, ge=0)  #: gradient steps
    seed: int = Field(default=0, ge=0)  #: seed of the support draw and of all other randomness
    evaluate: int = Field(default=5, ge=0)  #: maximum number of remaining labelled scans to score before and after
    learner: SerializeAsAny[LearnerSettings] | None = None
    plan: PlanSettings | None = None
    pretext: PretextSettings | None = None  #: settings of the steps on unlabelled scans
    unlabelled_names: tuple[str, ...] | None = None  #: unlabelled cases to learn from; None: all
    device: str = "auto"  #: auto (CUDA if available), cpu, cuda or cuda:N
    precision: str = "auto"  #: auto, float32 or bfloat16
    any_intensities: bool = False  #: accept scans whose intensities do not fit those of the others
    configuration: Configuration = Configuration()  #: a choice of the joint space in place of the start's default
    images: bool = True  #: draw overlay.png, slices of one scan with its labels


@dataclass(frozen=True)
class Outlook:
    """What an adaptation is about to do."""

    organs: tuple[str, ...]
    support: tuple[str, ...]  #: case names
    steps: int
    spacing: tuple[float, ...]  #: voxel size of the planned grid, in mm
    view: tuple[int, ...]  #: size of a training view, in voxels
    channels: tuple[str, ...]  #: their names in dataset.json, or their kinds
    num_scored: int
    num_unlabelled_steps: int
    device: str
    seconds: float  #: expected time of the steps, extrapolated from one measured step


def adapt(
    run: MetaRun | Path | str,
    dataset: CachedDataset | Path | str,
    out: Path | str,
    settings: AdaptSettings | None = None,
    *,
    unlabelled: CachedDataset | Path | str | None = None,
    on_start: Callable[[Outlook], None] | None = None,
    on_step: StepHook | None = None,
) -> dict[str, Any]:
    """Return a note on the adaptation after fitting an organ of ``dataset`` from a few scans.

    ``run`` is a meta-trained run, its folder, or the name of a shipped start, such as "default".
    ``dataset`` is a folder in MSD layout or a prepared data set. It does not need a card. Bad cases of a folder are left out
    with a warning; it is an error only if ``settings.support`` names one of them.
    Writes the model, its architecture with a drawing, ``adaptation.json`` and ``overlay.png`` to ``out``. The file holds the
    note with identifiers instead of the names of cases; ``cases.private.json`` has the names (engine/shared_note.py).
    ``unlabelled`` is a folder of scans or a prepared data set. The run learns from it first, without the support scans
    (engine/unlabelled.py). ``on_start`` is called once before the first step and costs one extra step. ``on_step(step, loss)``
    is called after each step. A step takes 0.3 to 1.2 s on one core at base width 8.
    """
    with owned(out):
        return _adapt(run, dataset, out, settings, unlabelled=unlabelled, on_start=on_start, on_step=on_step)


def _adapt(
    run: MetaRun | Path | str,
    dataset: CachedDataset | Path | str,
    out: Path | str,
    settings: AdaptSettings | None,
    *,
    unlabelled: CachedDataset | Path | str | None,
    on_start: Callable[[Outlook], None] | None,
    on_step: StepHook | None,
) -> dict[str, Any]:
    s = settings or AdaptSettings()
    job = prepare_adaptation(run, dataset, out, s, learns_first=unlabelled is not None)
    start_model, _, _ = adapt_episode(
        job.run, job.episode, job.learner.model_copy(update={"steps": 0}), job.plan, s.seed, job.runtime
    )
    if on_start:
        num_unlabelled = job.pretext.steps if unlabelled is not None else 0
        on_start(_outlook(job, num_unlabelled))
    more: dict[str, Any] = {}
    if unlabelled is not None:
        run, done = learn_from(
            job.run,
            unlabelled,
            job.data,
            job.support,
            job.scored,
            job.pretext,
            job.plan,
            s.seed,
            job.runtime,
            names=s.unlabelled_names,
            search=not job.learner.keeps_alphas,
        )
        job, more["unlabelled"] = replace(job, run=run), done
    before = score(start_model, job.data, job.scored)
    model, report, waited = adapt_episode(job.run, job.episode, job.learner, job.plan, s.seed, job.runtime, on_step)
    more["data_wait_share"] = waited / max(report.seconds, 1e-9)
    return finish_adaptation(job, out, model, report, before, more)


@dataclass(frozen=True)
class Prepared:
    """What an adaptation works on, checked."""

    run: MetaRun  #: of the chosen configuration, a part of the start
    data: CachedDataset
    settings: AdaptSettings
    learner: LearnerSettings
    plan: PlanSettings
    pretext: PretextSettings
    runtime: Runtime
    episode: Episode  #: of all support scans
    support: tuple[str, ...]  #: case names
    scored: tuple[str, ...]  #: names of the held-back cases to score
    usual: tuple[float, ...]  #: mm: usual voxel size of the support
    intensities: SupportIntensities
    alpha_reason: str = ""  #: why alphas are searched or frozen, where ``alpha: auto`` decided it


def prepare_adaptation(
    run: MetaRun | Path | str,
    dataset: CachedDataset | Path | str,
    out: Path | str,
    settings: AdaptSettings,
    *,
    learns_first: bool = False,
    replaces: bool = False,
) -> Prepared:
    """Return what an adaptation works on, after all checks and warnings that precede the first step.

    ``learns_first``: steps on unlabelled scans come first. ``replaces``: a model in ``out`` may be replaced.
    """
    s = settings
    run = run if isinstance(run, MetaRun) else MetaRun.open(run)
    reading = ReadOptions(any_intensities=s.any_intensities)
    data = dataset if isinstance(dataset, CachedDataset) else open_dataset(dataset, options=reading, skip_bad=True)
    check_folder(out)
    if not replaces:
        _check_free(Path(out))
    pretext = s.pretext or run.settings.pretext
    if learns_first:
        check_pretexts(pretext.names)
    runtime = choose_runtime(s.device, s.precision)
    learner = s.learner or run.settings.adapt
    check_adapts(learner)
    learner = learner if s.steps is None else learner.model_copy(update={"steps": s.steps})
    run, learner, plan = s.configuration.apply(run, learner, s.plan or run.settings.plan.of_adapt())
    learner, why = learner.decided(build_real(run).body)
    episode, chosen, scored, usual = _choose(data, s, plan, run.settings.space.levels)
    intensities = SupportIntensities.of(data, episode.task, chosen)
    check_intensities(data, intensities, episode.plan, chosen, scored, s.any_intensities)
    warn_of_notes(data, [*chosen, *scored])
    check_adaptation(run, episode, learner, runtime)
    names = tuple(chosen), tuple(scored)
    return Prepared(run, data, s, learner, plan, pretext, runtime, episode, *names, usual, intensities, why)


def finish_adaptation(
    job: Prepared,
    out: Path | str,
    model: Model,
    report: LearnerReport,
    before: dict[str, dict[str, float]],
    more: Mapping[str, Any],
    *,
    replaces: bool = False,
    paused: Callable[[], AbstractContextManager[None]] = nullcontext,
    complete: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Return the note on an adaptation after scoring ``model`` and writing all files to ``out``.

    ``job`` has the learner, plan and episode that made the model. ``before``: Dice of the start by case and organ. ``more`` is
    added to the note. ``replaces``: a model in ``out`` may be replaced. Held-back scans are scored within ``paused()``, and
    ``complete`` may add to the note before it is written.
    """
    data, episode, chosen = job.data, job.episode, list(job.support)
    more = _annotated_note(data, episode.task, chosen, job.scored) | dict(more)
    if job.alpha_reason:
        more["alpha_reason"] = job.alpha_reason
    if model.genotype and (pipeline := job.settings.configuration.pipeline):
        model.genotype = model.genotype | {"pipeline": pipeline}
        report.genotype = model.genotype
    if seen := find_seen(job.run, data, chosen, job.scored):
        more["start_has_seen"] = seen.to_json()
    model.support = tuple(c.content_hash for c in data.cases if c.name in set(chosen))
    model.spacing, model.intensities, model.snomed = job.usual, job.intensities, data.snomed
    held = held_in(data, episode.task, chosen)
    more["support_dice"] = check_support(model, episode, job.plan, job.learner.steps, held)
    with paused():
        scores = {name: {"before": before[name], "after": after} for name, after in score(model, data, job.scored).items()}
    more["settings"] = {"learner": job.learner.model_dump(mode="json"), "plan": job.plan.model_dump(mode="json")}
    note = _note(job.run, data, episode, chosen, job.settings, report, scores) | more
    if complete:
        complete(note)
    _write(Path(out), model, note, data, (job.scored or job.support)[0], job.settings.images, replaces)
    return note


def _note(
    run: MetaRun,
    data: CachedDataset,
    episode: Episode,
    support: Sequence[str],
    settings: AdaptSettings,
    report: LearnerReport,
    scores: dict[str, dict[str, dict[str, float]]],
) -> dict[str, Any]:
    """Return what ``adaptation.json`` says of every adaptation; ``scores`` holds Dice by case, before and after, and organ."""
    return {
        "code": code_revision(),
        "meta_checkpoint": run.sha256,
        "seed": settings.seed,
        "organ": settings.organ,
        "organs": list(episode.task.names),
        "support": support,
        "patients_known": data.patients_known,
        "plan": episode.plan.to_json(),
        "report": report.to_json(),
        "seconds": report.seconds,
        "dice_before": mean_of({name: found["before"] for name, found in scores.items()}),
        "dice_after": mean_of({name: found["after"] for name, found in scores.items()}),
        "scored": scores,
    }


def _check_free(out: Path) -> None:
    if (out / "model.json").exists():
        raise CheckpointError(f"{out} already holds a model. Choose another --out, or remove it.")
    if has_run(out):
        raise CheckpointError(f"{out} already holds a run. Choose another --out.")


def _choose(
    data: CachedDataset, s: AdaptSettings, plan: PlanSettings, levels: int
) -> tuple[Episode, list[str], list[str], tuple[float, ...]]:
    """Return the episode, the names of support and scored cases, and the support's usual voxel size; warn about oddities."""
    task = task_in(data, s.organ)
    chosen, left = choose_support(data, task, s.shots, s.seed, s.support)
    episode = make_episode(data, task, chosen, [], plan, levels)
    scored = left[: s.evaluate]
    usual = usual_spacing(c.spacing for c in data.cases if c.name in set(chosen))
    warn_of_oddities(data, s.organ, episode, scored, usual)
    return episode, chosen, scored, usual


def _annotated_note(data: CachedDataset, task: OrganTask, support: Sequence[str], scored: Sequence[str]) -> dict[str, Any]:
    """Return how many support and scored scans annotate an organ, by organ; empty if all scans annotate all of them."""
    found = {kind: annotated_counts(data, task, names) for kind, names in (("support", support), ("scored", scored))}
    return {"annotated": {kind: counts for kind, counts in found.items() if counts}} if any(found.values()) else {}


def adapt_episode(
    run: MetaRun,
    episode: Episode,
    learner: LearnerSettings,
    plan: PlanSettings,
    seed: int,
    runtime: Runtime,
    on_step: StepHook | None = None,
    pace: Pace | None = None,
) -> tuple[Model, LearnerReport, float]:
    """Return the adapted model, the learner's report and the seconds spent waiting for data.

    ``pace`` may move the end of the run. Raises DivergedError on a non-finite loss.
    """
    space = run.settings.space
    solve = Solver(space, run.settings.seed, learner, plan, runtime, run.buffers)
    try:
        adapted, sampler = solve.run(solve.network(run.state), episode, np.random.default_rng([seed, 11]), on_step, pace)
    except NonFiniteLossError as error:
        raise DivergedError(
            f"{episode.task.key}: {error} during adaptation. Lower adapt.lr or check the scans' intensities."
        ) from error
    adapted.net.eval()
    model = Model(adapted.net, episode.plan, episode.task, space, adapted.report.genotype, runtime)
    return model, adapted.report, sampler.waited


def _outlook(job: Prepared, num_unlabelled_steps: int) -> Outlook:
    """Return the outlook of an adaptation. Its seconds are those of one discarded step times the number of steps."""
    seconds, learner, episode = 0.0, job.learner, job.episode
    if learner.steps:
        ticks: list[float] = []
        trial = learner.model_copy(update={"steps": 2})
        adapt_episode(job.run, episode, trial, job.plan, 0, job.runtime, lambda step, loss: ticks.append(time.perf_counter()))
        seconds = (ticks[-1] - ticks[0]) / max(len(ticks) - 1, 1) * learner.steps
    return Outlook(
        tuple(episode.task.names),
        job.support,
        learner.steps,
        episode.plan.spacing,
        episode.plan.view,
        job.intensities.names or job.intensities.kinds,
        len(job.scored),
        num_unlabelled_steps,
        str(job.runtime.device),
        seconds,
    )


def score(model: Model, dataset: CachedDataset, names: Sequence[str], tta: bool | None = None) -> dict[str, dict[str, float]]:
    """Return Dice by case and annotated organ for whole scans in native spacing; ``tta``: as in ``Model.segment``."""
    result = {}
    tta = model.tta if tta is None else tta
    for name in names:
        scan = query_scan(dataset, model.task, name, model.plan)
        labels = predict_labels(model.net, scan.image, model.plan, scan.truth.shape, model.runtime, tta)
        known = [(k, organ) for k, organ in enumerate(model.task.names, start=1) if k not in scan.missing]
        result[name] = {organ: dice(scan.truth, labels, k) for k, organ in known}
    return result


def mean_of(scores: dict[str, dict[str, float]]) -> float | None:
    """Return the mean over cases and organs; None without cases."""
    values = [v for by_organ in scores.values() for v in by_organ.values()]
    return float(np.mean(values)) if values else None


def _write(
    out: Path, model: Model, note: dict[str, Any], data: CachedDataset, shown: str, images: bool = True, replaces: bool = False
) -> None:
    """Write the model, ``note`` (with the model's hash added) and a picture of the case ``shown`` to ``out``, atomically."""
    with unstopped(), atomic_folder(out, last=("model.safetensors", "model.json")) as draft:
        model.task = replace(model.task, dataset=shared_name(data))
        note["model_sha256"] = model.save(draft)
        if model.genotype:
            write_architecture_drawing(draft, model.genotype)
        if images:
            _picture(draft / "overlay.png", model, data, shown, held_back=shown in note["scored"])
        write_note(draft, note, data)
        # the folder may have changed while the model was fitted
        check_owned(out)
        if not replaces:
            _check_free(out)


def _picture(path: Path, model: Model, data: CachedDataset, name: str, held_back: bool) -> None:
    case = next(c for c in data.cases if c.name == name)
    image = data.image(name)
    truth, labels = known_only(organ_map(data, model.task, name), model.segment(image, case.spacing))
    overlay(
        path, image[0], model.label_values[truth], labels, case.spacing, "a held-back scan" if held_back else "a support scan"
    )
