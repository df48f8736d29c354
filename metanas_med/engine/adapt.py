"""``adapt``: fit a new organ from a handful of annotated scans, starting from a meta-trained run."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import LearnerSettings, PlanSettings, PretextSettings
from ..data.cache import prepare
from ..data.cached import CachedDataset, open_cache
from ..data.units import in_other_units, usual_spacing
from ..errors import CheckpointError, ConfigError, DataError, DivergedError, suggest
from ..files import atomic_folder, check_folder, default_cache, write_json
from ..learner import LearnerReport, NonFiniteLossError, Runtime, choose_runtime
from ..meta.reptile import MetaState
from ..pretext import check_pretexts
from ..report.figures import overlay
from ..space import one_hot_alphas, read_space_settings
from ..tasks.episode import Episode, draw_split, make_episode, query_scan
from ..tasks.organ import OrganTask, held_labels, task_in
from .checkpoint import code_revision, group, load_state
from .model import Model, write_architecture_drawing
from .predict import predict_labels
from .run_task import build_network, load_meta_state, run_task
from .settings import Settings
from .validate import dice

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetaRun:
    """A meta-trained state with the settings it was trained with."""

    settings: Settings
    state: MetaState
    buffers: dict[str, torch.Tensor]
    sha256: str
    held_out: tuple[str, ...]
    train_tasks: tuple[str, ...]  #: what it learned from: data set/organ, or data set/unlabelled

    @staticmethod
    def load(folder: Path | str, which: str = "last") -> MetaRun:
        """Return the ``last`` or ``best`` checkpoint of a meta-training folder; CheckpointError when it cannot be used."""
        tensors, note = load_state(Path(folder), which, "meta-state")
        try:
            return MetaRun(
                Settings.model_validate(note["settings"] | {"space": read_space_settings(note["settings"]["space"])}),
                MetaState(group(tensors, "weights."), group(tensors, "alphas.")),
                group(tensors, "buffers."),
                note["sha256"],
                tuple(note["held_out"]),
                (*note["train_tasks"], *(f"{name}/unlabelled" for name in note.get("pretext", {}).get("sets", ()))),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}/{which}.json cannot be used ({' '.join(str(error).split())[:200]})") from error

    def fresh(self, seed: int) -> MetaRun:
        """Return this run with newly initialised weights and its alphas and gains kept: the start of training from scratch."""
        net = build_network(self.settings.space, seed)
        weights = {n: p.detach().clone() for n, p in net.weights().items()}
        return replace(self, state=MetaState(weights, self.state.alphas))

    def with_genotype(self, genotype: dict[str, Any]) -> MetaRun:
        """Return this run with one-hot alphas: the architecture of ``genotype`` and no other."""
        net = build_network(self.settings.space, self.settings.seed)
        one_hot_alphas(net.body, genotype)
        alphas = {n: p.detach().clone() for n, p in net.alphas().items()}
        return replace(self, state=MetaState(self.state.weights, alphas))


def check_adapts(learner: LearnerSettings) -> None:
    """Raise ConfigError for a learner that fits no organ: FOMAML makes one step of meta-training, and leaves the task's rows as they start."""
    if learner.name == "fomaml":
        raise ConfigError("adapt.name: fomaml meta-trains (learner.name); it does not fit an organ. Expected darts.")


def open_dataset(path: Path | str, cache: Path | str | None = None) -> CachedDataset:
    """Return a data set given as a folder (prepared into ``cache`` where that is not done yet) or as a cache file."""
    path = Path(path)
    if path.suffix == ".h5":
        return open_cache(path)
    root = Path(os.path.abspath(path))  # a link has the name that the cache goes by
    if cache is None:
        # two folders of one name must not overwrite each other in the user's cache
        cache = default_cache() / hashlib.sha256(str(root).encode()).hexdigest()[:12]
    prepare([path], cache)
    return open_cache(Path(cache) / f"{root.name}.h5")


def choose_support(
    dataset: CachedDataset, task: OrganTask, shots: int, seed: int, names: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Return support case names and the labelled cases of other patients that are left.

    ``names`` fixes the support; otherwise ``shots`` patients are drawn with ``seed``. Raises DataError when there are too few.
    """
    patient = {c.name: c.patient for c in dataset.cases}
    if names:
        unknown = [n for n in names if n not in patient]
        if unknown:
            raise DataError(f"{dataset.name} has no case {unknown[0]!r}; {suggest(unknown[0], patient)}")
        support = list(dict.fromkeys(names))
    else:
        support, _ = draw_split(dataset, task, shots, 0, np.random.default_rng([seed, 7]))
        if len(support) < shots:
            raise DataError(
                f"{task.key}: {shots} shots were asked for, found {len(support)} patient(s) with the organ. Lower --shots."
            )
    _check_organs(dataset, task, support)
    used = {patient[n] for n in support}
    return support, [c.name for c in dataset.cases if c.patient not in used]


def _check_organs(dataset: CachedDataset, task: OrganTask, support: Sequence[str]) -> None:
    """Raise DataError where no support scan holds an organ of the task; tell of single organs that none holds."""
    held = _held(dataset, task, support)
    absent = [name for name, is_held in zip(task.names, held, strict=True) if not is_held]
    if len(absent) == task.num_organs:
        raise DataError(
            f"{task.key}: none of the support scans ({', '.join(support)}) holds a voxel of it. Choose scans that show the organ."
        )
    if absent:
        log.warning("no support scan holds %s: the model will not know it", ", ".join(absent))


def _held(dataset: CachedDataset, task: OrganTask, support: Sequence[str]) -> list[bool]:
    """Return of each organ of the task whether a support scan has a voxel of it."""
    counts = [c.label_voxels for c in dataset.cases if c.name in set(support)]
    return [any(count.get(value) for count in counts for value in values) for values in task.organs]


def _tell_oddities(data: CachedDataset, organ: str, episode: Episode, scored: Sequence[str], usual: Sequence[float]) -> None:
    """Warn of what spoils a model or its scores without an error: organs that it will not know, scored scans in other units than ``usual``."""
    held = held_labels(data)
    if organ in ("all", "union") and (left_out := [name for value, name in data.labels.items() if value not in held]):
        log.warning("no scan of %s holds %s: the model will not know it", data.name, ", ".join(left_out))
    _tell_vanished(data, episode)
    for case in data.cases:
        if case.name in scored and (told := in_other_units(case.spacing, usual, "the support")):
            log.warning("%s, %s, which is scored: %s", data.name, case.name, told)


def _tell_vanished(dataset: CachedDataset, episode: Episode) -> None:
    """Warn of organs that support scans hold and that resampling to the plan's spacing leaves no voxel of."""
    task = episode.task
    left = {int(value) for volume in episode.support for value in volume.label.unique()}
    held = _held(dataset, task, [volume.name for volume in episode.support])
    gone = [name for k, name in enumerate(task.names, start=1) if held[k - 1] and k not in left]
    if gone:
        log.warning(
            "no voxel of %s is left in any support scan on the planned grid of %s mm: the model will not know it; raise --plan.view_voxels%s",
            ", ".join(gone),
            " x ".join(f"{size:.3g}" for size in episode.plan.spacing),
            ", or fit it by itself (--organ NAME)" if task.num_organs > 1 else "",
        )


def adapt_episode(
    run: MetaRun, episode: Episode, learner: LearnerSettings, plan: PlanSettings, seed: int, runtime: Runtime, on_step: Any = None
) -> tuple[Model, LearnerReport, float]:
    """Return the adapted model, the learner's report and the seconds waited for data; DivergedError on a non-finite loss."""
    space = run.settings.space
    net = build_network(space, run.settings.seed).to(runtime.device)
    load_meta_state(net, run.state, run.buffers)
    try:
        adapted, sampler = run_task(net, episode, learner, plan, np.random.default_rng([seed, 11]), runtime, on_step)
    except NonFiniteLossError as error:
        raise DivergedError(
            f"{episode.task.key}: {error} in adaptation. Lower adapt.lr or check the scans' intensities."
        ) from error
    adapted.net.eval()
    genotype = adapted.report.genotype
    model = Model(adapted.net, episode.plan, episode.task, space, genotype, runtime)
    return model, adapted.report, sampler.waited


def score(model: Model, dataset: CachedDataset, names: Sequence[str], tta: bool = False) -> dict[str, dict[str, float]]:
    """Return Dice by case and organ of whole scans in native spacing; ``tta``: as ``Model.segment``."""
    result = {}
    for name in names:
        scan = query_scan(dataset, model.task, name, model.plan)
        labels = predict_labels(model.net, scan.image, model.plan, scan.truth.shape, model.runtime, tta)
        result[name] = {organ: dice(scan.truth, labels, k) for k, organ in enumerate(model.task.names, start=1)}
    return result


def mean_of(scores: dict[str, dict[str, float]]) -> float | None:
    """Return the mean over cases and organs; None without cases."""
    values = [v for by_organ in scores.values() for v in by_organ.values()]
    return float(np.mean(values)) if values else None


def adapt(
    run: MetaRun | Path | str,
    dataset: CachedDataset | Path | str,
    out: Path | str,
    organ: str = "all",
    shots: int = 5,
    steps: int | None = None,
    *,
    seed: int = 0,
    support: Sequence[str] | None = None,
    evaluate: int = 5,
    learner: LearnerSettings | None = None,
    plan: PlanSettings | None = None,
    device: str = "auto",
    precision: str = "auto",
    on_step: Callable[[int, float], None] | None = None,
    unlabelled: CachedDataset | Path | str | None = None,
    unlabelled_names: Sequence[str] | None = None,
    unlabelled_steps: int | None = None,
    pretext: PretextSettings | None = None,
) -> dict[str, Any]:
    """Return what was done (the content of ``adaptation.json``) after fitting ``organ`` of ``dataset`` from ``shots`` scans.

    ``dataset`` is a folder in MSD layout or a prepared one; the organ, its channels and spacing need not be known to any card.
    Writes ``model.safetensors``, ``model.json``, ``architecture.json`` and its drawing, ``adaptation.json`` and ``overlay.png`` to ``out``.
    ``evaluate`` bounds how many of the labelled scans that are left are scored before and after. Takes about a second a step.

    ``unlabelled`` (a folder of scans, or a prepared one; of its cases ``unlabelled_names``, or all) is learned from first: ``unlabelled_steps``
    gradient steps on the tasks of ``pretext``, on weights and, where they are adapted, alphas. Scans of the support are left out of it (see
    engine/unlabelled.py).
    """
    run = run if isinstance(run, MetaRun) else MetaRun.load(run)
    data = dataset if isinstance(dataset, CachedDataset) else open_dataset(dataset)
    out = Path(out)
    check_folder(out)
    if (out / "model.json").exists():
        raise CheckpointError(f"{out} already holds a model. Choose another --out, or remove it.")
    pretext = pretext or run.settings.pretext
    if unlabelled is not None:
        check_pretexts(pretext.names)
    runtime = choose_runtime(device, precision)
    learner = learner or run.settings.adapt
    check_adapts(learner)
    learner = learner if steps is None else learner.model_copy(update={"steps": steps})
    plan = plan or run.settings.plan.of_adapt()
    task = task_in(data, organ)
    chosen, left = choose_support(data, task, shots, seed, support)
    episode = make_episode(data, task, chosen, [], plan, run.settings.space.levels)
    scored = left[:evaluate]
    usual = usual_spacing(c.spacing for c in data.cases if c.name in set(chosen))
    _tell_oddities(data, organ, episode, scored, usual)
    start_model, _, _ = adapt_episode(run, episode, learner.model_copy(update={"steps": 0}), plan, seed, runtime)
    label_free: dict[str, Any] = {}
    if unlabelled is not None:
        from .unlabelled import learn_from  # it builds on this module

        pretext = pretext if unlabelled_steps is None else pretext.model_copy(update={"steps": unlabelled_steps})
        # an architecture that is to be kept, or drawn, is not searched without labels, either
        search = learner.alpha == "adapt"
        run, done = learn_from(
            run, unlabelled, data, chosen, scored, pretext, plan, seed, runtime, names=unlabelled_names, search=search
        )
        label_free = {"unlabelled": done}
    before = score(start_model, data, scored)
    model, report, waited = adapt_episode(run, episode, learner, plan, seed, runtime, on_step)
    model.support = tuple(c.content_hash for c in data.cases if c.name in set(chosen))
    model.spacing = usual
    scores = {name: {"before": before[name], "after": after} for name, after in score(model, data, scored).items()}
    note = {
        "code": code_revision(),
        "meta_checkpoint": run.sha256,
        "seed": seed,
        "organ": organ,
        "organs": list(task.names),
        "support": chosen,
        "patients_known": data.patients_known,
        "settings": {"learner": learner.model_dump(mode="json"), "plan": plan.model_dump(mode="json")},
        **label_free,
        "plan": episode.plan.to_json(),
        "report": report.to_json(),
        "seconds": report.seconds,
        "data_wait_share": waited / max(report.seconds, 1e-9),
        "dice_before": mean_of({name: found["before"] for name, found in scores.items()}),
        "dice_after": mean_of({name: found["after"] for name, found in scores.items()}),
        "scored": scores,
    }
    _write(out, model, note, data, (scored or chosen)[0])
    return note


def _write(out: Path, model: Model, note: dict[str, Any], data: CachedDataset, shown: str) -> None:
    """Write the model, ``note`` (which gets the model's hash) and a picture of the case ``shown`` to ``out``: all of it, or nothing."""
    with atomic_folder(out) as draft:
        note["model_sha256"] = model.save(draft)
        if model.genotype:
            write_architecture_drawing(draft, model.genotype)
        _picture(draft / "overlay.png", model, data, shown, held_back=shown in note["scored"])
        write_json(draft / "adaptation.json", note)


def _picture(path: Path, model: Model, data: CachedDataset, name: str, held_back: bool) -> None:
    case = next(c for c in data.cases if c.name == name)
    image, truth = data.image(name), model.label_values[model.task.remap(data.label(name))]
    labels = model.segment(image, case.spacing)
    overlay(path, image[0], truth, labels, case.spacing, "a scan that was held back" if held_back else "a support scan")
