"""Meta-training: METANAS' outer loop (Elsken et al. 2020, arXiv 1911.11090, algorithm 1) over organ tasks.

The loop is ``MetaTraining.run``; everything it calls is one line of the algorithm.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.cache import open_caches
from ..data.patches import PatchSampler
from ..data.prefetch import Prefetcher
from ..errors import CheckpointError, DivergedError
from ..files import write_json
from ..learner import FeatureLearner, NonFiniteLossError, build_learner, choose_runtime
from ..learner.relaxations import relaxation_of
from ..meta import build_meta
from ..meta.reptile import MetaState, center_row, commit_row
from ..pretext import PretextSource, build_source
from ..space import calibrate, derive, genotype, read_space_settings
from ..space.choice import Relaxed
from ..tasks.distribution import build_distribution
from ..tasks.episode import Episode
from ..tracking import open_tracker
from .adapt import check_adapts
from .checkpoint import buffers_of, group, join, load_state, save_state
from .meta_figures import alpha_statistics, write_figures
from .progress import Progress
from .run_task import build_network, load_meta_state, meta_state, open_task, run_task
from .settings import Settings
from .validate import Validator

log = logging.getLogger(__name__)

#: streams of the seed tree: the numbers only have to differ
_DRAW, _LEARN, _VALIDATE, _CALIBRATE = 1, 2, 3, 4


def meta_train(settings: Settings, out: Path | str, resume: bool = False) -> Path:
    """Return the run folder after meta-training with ``settings``; with ``resume`` it goes on from the folder's last checkpoint.

    The folder gets ``last`` and ``best`` checkpoints, ``settings.json``, metrics and figures. On the CPU a run that was stopped and
    resumed gives the same bits as one that was not (unless ``meta.max_seconds`` ties it to the clock).
    """
    run = MetaTraining(settings, Path(out), resume)
    run.run()
    return run.folder


class MetaTraining:
    """One meta-training run: meta state, task distribution, learner, meta learner, checkpoints."""

    def __init__(self, settings: Settings, folder: Path, resume: bool) -> None:
        self.settings, self.folder = settings, folder
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.runtime = choose_runtime(settings.device, settings.precision)
        caches, mix = open_caches(Path(settings.cache)), settings.pretext.mix
        self.tasks = build_distribution(caches, settings.tasks, settings.plan, settings.space.levels, labelled=mix < 1)
        self.pretexts = self._open_pretexts() if mix else None
        self.net = build_network(settings.space, settings.seed).to(self.runtime.device)
        self.meta = build_meta(settings.meta)
        self.features = FeatureLearner(settings.features, settings.learner)
        check_adapts(settings.adapt)
        for learner in (settings.learner, settings.adapt):
            build_learner(learner)  # a wrong name, or one whose library is missing, is told before anything is written
        self.iteration, self.seconds, self.waited, self.num_bad, self.best = 0, 0.0, 0.0, 0, -1.0
        self.committed = False
        # of all parts of a run that was resumed: what was learned from once stays learned
        self.learned_from = [t.key for t in self.tasks.train]
        self.unlabelled_sets = set(self.pretexts.usable) if self.pretexts else set()
        self.recent_bad: deque[int] = deque(maxlen=100)
        self.validator = Validator(self.tasks, settings, self.runtime, partial(self._generator, _VALIDATE))
        if not resume and (folder / "last.json").exists():
            raise CheckpointError(f"{folder} already holds a run; give --resume to go on with it, or another folder")
        if resume:
            self._load()
        else:
            self._calibrate()
            self.state = meta_state(self.net)
            self.buffers = buffers_of(self.net)
        write_json(folder / "settings.json", settings.model_dump(mode="json"))  # of the last part, where a run was resumed
        self.tracker = open_tracker(
            folder, wandb=settings.track.wandb, project=settings.track.project, name=folder.name, kind="meta-train", resume=resume
        )
        self.tracker.config(settings.model_dump(mode="json"))
        self.tracker.rewind("iteration", self.iteration + 1)
        self.whole = self._snapshot()

    def run(self) -> None:
        """Meta-train to the end; an interruption leaves a checkpoint of the last whole iteration."""
        s = self.settings.meta
        episodes = Prefetcher(self._episodes(), depth=2)
        source, start, before = iter(episodes), time.perf_counter(), self.seconds
        try:
            with Progress(s.iterations, self.iteration) as bar:
                while self.iteration < s.iterations and not (s.max_seconds and self.seconds >= s.max_seconds):
                    progress = self.progress()
                    self._commit(progress)
                    losses: list[float] = []
                    first: list[float] = []
                    drawn = (next(source) for _ in range(s.batch))
                    if self._learns_features(progress):
                        for slot, episode in enumerate(drawn):
                            self.state = self._feature_steps(episode, slot, progress, losses, first)
                    else:
                        ends = (self._adapt(episode, slot, progress, losses, first) for slot, episode in enumerate(drawn))
                        self.state = self.meta.step(self.state, (end for end in ends if end is not None), progress)
                    self.iteration += 1
                    self.seconds = before + time.perf_counter() - start
                    row = self._row(losses, first, episodes.waited)
                    if self.iteration % s.validate_every == 0 or self.iteration == s.iterations:
                        row |= self._validate()
                    self.tracker.metrics("iteration", self.iteration, row)
                    self.whole = self._snapshot()
                    bar.update(self.iteration, row, self._time_left())
                    if self.iteration % s.checkpoint_every == 0:
                        self.save()
        finally:
            episodes.close()
            self.waited += episodes.waited
            self.save()
            self._draw_figures()
            self.tracker.close()

    def progress(self) -> float:
        """Return how far the run is, in [0, 1]: by iterations, or by the clock where ``max_seconds`` ends it sooner."""
        s = self.settings.meta
        by_time = self.seconds / s.max_seconds if s.max_seconds else 0.0
        return max(self.iteration / max(s.iterations, 1), by_time)

    def _commit(self, progress: float) -> None:
        """Settle on the architecture found so far: from here on the discrete network's weights are meta-learned, at its own cost."""
        s = self.settings.meta
        if s.commit >= 1 or self.committed or progress < s.commit:
            return
        alphas = {name: commit_row(row, s.commit_margin) for name, row in self.state.alphas.items()}
        self.state, self.committed = MetaState(self.state.weights, alphas), True

    def _learns_features(self, progress: float) -> bool:
        """Return whether this part of the run learns features through the closed-form head rather than by task-learner runs."""
        s = self.settings.features
        return progress < s.first or progress + s.last >= 1.0 - 1e-9  # 0.3 + 0.7 is a little less than 1

    def _feature_rate(self, progress: float) -> float:
        """Return the factor of the features' learning rate: constant at first, a cosine to a hundredth over their last part."""
        s = self.settings.features
        start, end = (1.0 - s.last, 1.0) if s.last else (0.0, s.first)
        part = min(max((progress - start) / max(end - start, 1e-9), 0.0), 1.0)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part))

    def _feature_steps(self, episode: Episode, slot: int, progress: float, losses: list[float], first: list[float]) -> MetaState:
        """Return the meta state after steps on its features (and alphas); as it was when a loss is not finite."""
        load_meta_state(self.net, self.state, self.buffers)
        self.net.body.relax(Relaxed(relaxation_of(self.settings.learner)))
        discrete = self.committed and self.net.alphas()
        net = self.net.with_body(derive(self.net.body, genotype(self.net.body))) if discrete else self.net
        generator = self._generator(_LEARN, self.iteration, slot)
        task, sampler = open_task(episode, self.settings.plan, generator)
        try:
            search = progress >= self.settings.meta.warmup and self.settings.learner.alpha == "adapt" and not discrete
            found = self.features.run(net, task, self._feature_rate(progress), generator, self.runtime, search=bool(search))
        except NonFiniteLossError as error:
            self._note_bad(episode, error)
            return self.state
        self.recent_bad.append(0)
        self.waited += sampler.waited
        losses.append(found[-1])
        first.append(found[0])
        after = meta_state(net)
        alphas = self.state.alphas if discrete else {n: center_row(a) for n, a in after.alphas.items()}
        return MetaState({**self.state.weights, **after.weights}, alphas)

    def _note_bad(self, episode: Episode, error: NonFiniteLossError) -> None:
        """Count a task that was skipped; DivergedError when they are too many."""
        self.num_bad += 1
        self.recent_bad.append(1)
        log.warning("iteration %d: skipped a task of %s: %s", self.iteration, episode.task.key, error)
        if sum(self.recent_bad) > self.settings.meta.max_bad_tasks:
            raise DivergedError(
                f"{sum(self.recent_bad)} of the last {len(self.recent_bad)} tasks had a non-finite loss (limit "
                f"meta.max_bad_tasks {self.settings.meta.max_bad_tasks}). Lower learner.lr or features.lr, or check the data."
            ) from error

    def _generator(self, stream: int, *place: int) -> np.random.Generator:
        """Return the generator of one place in the run: nothing depends on what was drawn before it."""
        return np.random.default_rng([self.settings.seed, stream, *place])

    def _episodes(self) -> Iterator[Episode]:
        iteration = self.iteration
        while True:
            for slot in range(self.settings.meta.batch):
                yield self._draw(self._generator(_DRAW, iteration, slot))
            iteration += 1

    def _draw(self, generator: np.random.Generator) -> Episode:
        """Return a training episode: label-free by the share that the settings mix in, else of an organ task."""
        if self.pretexts and generator.random() < self.settings.pretext.mix:
            return self.pretexts.draw(generator)
        return self.tasks.draw(generator)

    def _open_pretexts(self) -> PretextSource:
        """Return the label-free episodes of the training data sets: what is held out or validates is held out here, too."""
        s = self.settings
        sets = [self.tasks.datasets[name] for name in self.tasks.training_sets]
        return build_source(sets, s.pretext, s.plan, s.space.levels, s.space.dims, strict=s.pretext.mix == 1)

    def _adapt(self, episode: Episode, slot: int, progress: float, losses: list[float], first: list[float]) -> MetaState | None:
        """Return the state that the task learner reaches from the meta state on one episode; None when its loss is not finite."""
        load_meta_state(self.net, self.state, self.buffers)
        learner = self.settings.learner
        if progress < self.settings.meta.warmup:
            # the weights of every candidate warm up, not those of an architecture that nobody has chosen yet
            learner = learner.model_copy(update={"alpha": "frozen", "discretize": False})
        elif self.committed:
            learner = learner.model_copy(update={"alpha": "frozen", "discretize": True})
        generator = self._generator(_LEARN, self.iteration, slot)
        try:
            adapted, sampler = run_task(self.net, episode, learner, self.settings.plan, generator, self.runtime)
        except NonFiniteLossError as error:
            self._note_bad(episode, error)
            return None
        self.recent_bad.append(0)
        self.waited += sampler.waited
        if adapted.report.losses:
            losses.append(adapted.report.losses[-1])
            first.append(adapted.report.losses[0])
        return meta_state(self.net)  # changed in place; a discrete network alone would lack alphas

    def _row(self, losses: list[float], first: list[float], waited: float) -> dict[str, float]:
        beta_w, beta_a = self.meta.rates(self.progress())
        entropy, top = alpha_statistics(self.state.alphas)
        return {
            "loss": float(np.mean(losses)) if losses else math.nan,
            "loss_first_step": float(np.mean(first)) if first else math.nan,
            "alpha_entropy": entropy,
            "alpha_top": top,
            "beta_weights": beta_w,
            "beta_alphas": beta_a,
            "bad_tasks": float(self.num_bad),
            "seconds": self.seconds,
            "data_wait_share": (self.waited + waited) / max(self.seconds, 1e-9),
        }

    def _validate(self) -> dict[str, float]:
        """Return the mean query Dice of the fixed validation episodes, if there are any; keep the best state."""
        mean = self.validator.dice(self.net, partial(load_meta_state, self.net, self.state, self.buffers))
        if mean is None:
            return {}
        if mean > self.best:
            self.best = mean
            save_state(self.folder, "best", "meta-state", *self._snapshot())
        return {"query_dice": mean, "best_query_dice": self.best}

    def _calibrate(self) -> None:
        """Measure the candidates' gains on features of training organs, once, before the first step."""
        batches = []
        for number in range(4):
            generator = self._generator(_CALIBRATE, number)
            # no made-up ones: gains are of real features
            episode = self.tasks.draw(generator, self.tasks.train) if self.tasks.train else self._draw(generator)
            sampler = PatchSampler(episode.support, episode.plan.view, generator, augment=False)
            self.net.start_task(episode.num_channels, episode.task.num_organs)
            with torch.no_grad():
                images = self.net.stem(self.runtime.place(sampler.batch(1).images), self.net.task["channels"])
            batches.append((images, episode.plan.strides))
        calibrate(self.net.body, batches)

    def _time_left(self) -> float:
        s, done = self.settings.meta, max(self.iteration, 1)
        left = (s.iterations - self.iteration) * self.seconds / done
        return min(left, s.max_seconds - self.seconds) if s.max_seconds else left

    def save(self) -> None:
        """Write the checkpoint ``last``: the run as it was after its last whole iteration."""
        save_state(self.folder, "last", "meta-state", *self.whole)

    def _snapshot(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the tensors and the note of a checkpoint: every state that matters to go on."""
        tensors = join(weights=self.state.weights, alphas=self.state.alphas, buffers=self.buffers, features=self.features.state())
        note: dict[str, Any] = {
            "settings": self.settings.model_dump(mode="json"),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "waited": self.waited,
            "num_bad": self.num_bad,
            "committed": self.committed,
            "recent_bad": list(self.recent_bad),
            "best": self.best,
            "held_out": list(self.tasks.held_out),
            "train_tasks": self.learned_from,
            "validation_tasks": [t.key for t in self.tasks.validation],
        }
        if self.unlabelled_sets:
            note["pretext"] = {"sets": sorted(self.unlabelled_sets)}
        if self.pretexts:
            note["pretext"] |= {"scans": self.pretexts.num_scans, "set_aside": self.pretexts.num_set_aside}
        return tensors, note

    def _load(self) -> None:
        tensors, note = load_state(self.folder, "last", "meta-state")
        if self.pretexts and (sets := note.get("pretext", {}).get("sets", [])) != (own := sorted(self.pretexts.usable)):
            raise CheckpointError(
                f"{self.folder} learned from unlabelled scans of {', '.join(sets) or 'no data set'}, not of {', '.join(own)}; "
                "resume with the same data sets, or give another folder"
            )
        before = read_space_settings(note["settings"]["space"]).model_dump(mode="json")
        now = self.settings.space.model_dump(mode="json")
        if before != now:
            keys = sorted(key for key in before | now if before.get(key) != now.get(key))
            changed = [f"space.{key} is {before.get(key)} there, {now.get(key)} now" for key in keys]
            raise CheckpointError(
                f"{self.folder} was trained in another search space: {'; '.join(changed)}. Resume with its own settings.json."
            )
        self._keep_what_was_learned(note)
        load_meta_state(self.net, MetaState(group(tensors, "weights."), group(tensors, "alphas.")))
        self.state = meta_state(self.net)  # on the run's device
        self.buffers = group(tensors, "buffers.")
        self.features.load(group(tensors, "features."))
        self.iteration, self.seconds, self.waited = note["iteration"], note["seconds"], note["waited"]
        self.num_bad, self.best, self.committed = note["num_bad"], note["best"], note.get("committed", False)
        self.recent_bad.extend(note["recent_bad"])

    def _keep_what_was_learned(self, note: dict[str, Any]) -> None:
        """Take over what the earlier parts of this run learned from; CheckpointError where that is to be held out, or to validate, now."""
        before, sets = note["train_tasks"], note.get("pretext", {}).get("sets", [])
        seen = {*sets, *(key.split("/", 1)[0] for key in before)}
        left_out = {"held out": set(self.tasks.held_out), "validation": {t.dataset for t in self.tasks.validation}}
        for use, names in left_out.items():
            if both := sorted(seen & names):
                raise CheckpointError(
                    f"{self.folder} has learned from {', '.join(both)}, now {use}: the weights have seen what is in it. Start anew in another folder."
                )
        self.learned_from = list(dict.fromkeys([*before, *self.learned_from]))
        self.unlabelled_sets |= set(sets)

    def _draw_figures(self) -> None:
        load_meta_state(self.net, self.state, self.buffers)
        self.net.body.relax(Relaxed())  # at temperature 1
        if not write_figures(self.folder, self.net.body, self.validator, self.tracker):
            return
        for name in ("last", "best"):
            if (path := self.folder / f"{name}.safetensors").exists():
                self.tracker.artifact(name, path, "meta-state")
        self.tracker.summary(
            {"iterations": self.iteration, "seconds": self.seconds, "best_query_dice": self.best, "bad_tasks": self.num_bad}
        )
