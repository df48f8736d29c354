"""Meta-training: METANAS' outer loop (Elsken et al. 2020, arXiv 1911.11090, algorithm 1) over organ tasks.

``MetaTraining.run`` is the algorithm. Phases are in ``phases.py``, the inner problem is in ``solve.py``, and the run's folder is
in ``run_folder.py``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from ..data.cache import open_caches
from ..data.patches import PatchSampler
from ..data.prefetch import Prefetcher
from ..data.settings import vary
from ..launch import build_launcher
from ..learner import Context, FeatureLearner, NonFiniteLossError, build_learner, choose_runtime
from ..learner.evidence import Trail
from ..learner.relaxations import start_relaxed
from ..meta import MetaState, Update, build_meta, center_row
from ..ownership import owned
from ..pretext import PretextSource, SynthesisSource, build_source, build_synthesis
from ..space import calibrate, derive, draw_sandwich, genotype, get_space, sampled_rows
from ..space.choice import Relaxed
from ..space.narrow import sandwich
from ..stopping import unstopped
from ..tasks.distribution import build_distribution
from ..tasks.episode import Episode
from .checkpoint import buffers_of
from .fits import check_adapts, check_meta
from .learned import Learned, without_prefix
from .memory import check_meta_training
from .meta_figures import alpha_statistics, write_figures
from .phases import Kind, Phases, kinds_of
from .progress import Progress, show_row
from .run_folder import Counters, RunFolder, check_no_run
from .settings import Settings
from .solve import Job, PartSolver, Solver, open_task, run_job
from .state import build_network, load_meta_state, meta_state
from .validate import Validator

log = logging.getLogger(__name__)

#: streams of the seed tree; any distinct numbers work
_DRAW, _LEARN, _VALIDATE, _CALIBRATE, _KIND, _SIZES = 1, 2, 3, 4, 5, 6


def meta_train(settings: Settings, out: Path | str, resume: bool = False) -> Path:
    """Return the run folder after meta-training with ``settings``; ``resume`` continues from the folder's last checkpoint.

    The folder gets ``last`` and ``best`` checkpoints, ``settings.json``, metrics and figures. On the CPU, a run that was stopped
    and resumed is bit-identical to an uninterrupted run, unless ``meta.max_seconds`` makes it depend on the clock.
    """
    with owned(out):
        check_no_run(Path(out), resume)
        run = MetaTraining(settings, Path(out), resume)
        run.run()
    return run.folder.path


class MetaTraining:
    """One meta-training run. All inputs are checked before anything is written."""

    def __init__(self, settings: Settings, folder: Path, resume: bool) -> None:
        self.settings = settings
        if settings.threads:
            torch.set_num_threads(settings.threads)
        check_adapts(settings.adapt)
        check_meta(settings.meta, settings.learner)
        for learner in (settings.learner, settings.adapt):
            build_learner(learner)  # fails on an unknown name or a missing library
        self.meta = build_meta(settings.meta)
        self.runtime = choose_runtime(settings.device, settings.precision)
        caches, mix = open_caches(Path(settings.cache)), settings.pretext.mix
        self.tasks = build_distribution(caches, settings.tasks, settings.plan, settings.space.levels, labelled=mix < 1)
        self.pretexts = self._open_pretexts() if mix else None
        self.made_up = self._open_synthesis() if "synthesis" in kinds_of(settings.phases) else None
        self.features = FeatureLearner(settings.features)
        self.validator = Validator(self.tasks, settings, self.runtime, partial(self._generator, _VALIDATE))
        self.folder = RunFolder(folder, settings, self.tasks, self.pretexts)
        self.net = build_network(settings.space, settings.seed).to(self.runtime.device)
        check_meta_training(self.net, settings, self.tasks, self.runtime)
        if resume:
            self._load()
        else:
            self.folder.check_free()
            self._calibrate()
            self.state, self.buffers, self.at = meta_state(self.net), buffers_of(self.net), Counters()
        self.has_sizes = bool(sampled_rows(get_space(settings.space)))
        self.phases = Phases(settings.phases, settings.meta, settings.learner, self.at.committed)
        self.solve = Solver(
            settings.space, settings.seed, settings.learner, settings.plan, self.runtime, self.buffers, self.meta.query_gradient
        )
        self.launcher = build_launcher("serial")
        self.folder.open_tracker(resume, self.at.iteration)
        self.whole = self._snapshot()

    def run(self) -> None:
        """Meta-train to the end; an interruption leaves a checkpoint of the last complete iteration, and no figures."""
        s, at, phases = self.settings.meta, self.at, self.phases
        episodes = Prefetcher(self.episodes(at.iteration), depth=2)
        source, start, before = iter(episodes), time.perf_counter(), at.seconds
        stopped = False
        try:
            with Progress("meta-training", s.iterations, at.iteration) as bar:
                while at.iteration < s.iterations and not (s.max_seconds and at.seconds >= s.max_seconds):
                    progress = self.progress()
                    self._commit(progress)
                    kind, drawn = self._drawn(source)
                    losses: list[tuple[float, ...]] = []
                    if kind != "tasks":
                        for slot, episode in drawn:
                            self.state = self._feature_steps(self.state, episode, (slot, kind), progress, losses)
                    else:
                        # each task: from the meta state, k steps of the task learner on its support
                        solve = self.solve.with_learner(phases.task_learner(progress))
                        jobs = (
                            Job(self._sized(solve, slot), self.state, episode, self._seed(_LEARN, at.iteration, slot))
                            for slot, episode in drawn
                        )
                        updates = self._checked(self.launcher.map(run_job, jobs), losses)
                        self.state = self.meta.step(self.state, updates, progress)
                    at.iteration, at.committed = at.iteration + 1, phases.committed
                    at.seconds = before + time.perf_counter() - start
                    row = self._row(kind, losses, progress, episodes.waited)
                    if at.iteration % s.validate_every == 0 or at.iteration == s.iterations:
                        row |= self._validate()
                    self.folder.tracker.metrics("iteration", at.iteration, row)
                    self.whole = self._snapshot()
                    show_row(bar, at.iteration, row, self._time_left())
                    if at.iteration % s.checkpoint_every == 0:
                        self.save()
        except KeyboardInterrupt:
            stopped = True  # whoever stops a run does not wait for figures
            raise
        finally:
            self.save()
            episodes.close()
            at.waited += episodes.waited
            if not stopped:
                self._draw_figures()
            self.folder.tracker.close()

    def _sized(self, solve: Solver, slot: int) -> Solver | PartSolver:
        """Return ``solve`` of the network of one slot: the largest, the smallest and a random one in turn, in a space of sizes."""
        if not self.has_sizes:
            return solve
        space, turn = get_space(self.settings.space), self.at.iteration * self.settings.meta.batch + slot
        picks = sandwich(space, self._generator(_SIZES, self.at.iteration, slot))[turn % 3]
        return PartSolver(solve, {name: row.options[picks[name]] for name, row in sampled_rows(space).items()})

    def _commit(self, progress: float) -> None:
        """Commit when it is due, and keep what the alphas were before; until then, note the path of the alphas."""
        at, before = self.at, self.state
        if not self.phases.committed:
            at.trail.add(without_prefix(before.alphas))
        self.state = self.phases.commit(before, progress)
        if self.phases.committed and not at.committed:
            at.learned, at.trail = Learned.of(before.alphas, at.trail, at.iteration), Trail()

    def progress(self, iteration: int | None = None) -> float:
        """Return the progress of the run in [0, 1], by iterations or by ``max_seconds``, whichever is further."""
        s = self.settings.meta
        by_time = self.at.seconds / s.max_seconds if s.max_seconds else 0.0
        return max((self.at.iteration if iteration is None else iteration) / max(s.iterations, 1), by_time)

    def _drawn(self, source: Iterator[tuple[Kind, Episode]]) -> tuple[Kind, Iterator[tuple[int, Episode]]]:
        """Return the kind of the next iteration and its episodes with their slots, drawn on demand."""
        kind, first = next(source)
        rest = ((slot, next(source)[1]) for slot in range(1, self.settings.meta.batch))
        return kind, chain([(0, first)], rest)

    def _checked(self, updates: Iterable[Update], losses: list[tuple[float, ...]]) -> Iterator[Update]:
        """Yield the updates with finite losses one by one; raise DivergedError if too many losses are not finite."""
        for update in updates:
            self._note(update.key, update.bad, update.losses, update.waited, losses)
            if not update.bad:
                yield update

    def _note(self, key: str, bad: str, found: Iterable[float], waited: float, losses: list[tuple[float, ...]]) -> None:
        """Count a task and add its losses to ``losses``."""
        if bad:
            log.warning("iteration %d: skipped a task of %s: %s", self.at.iteration, key, bad)
        self.at.note_task(key, bad, self.settings.meta.max_bad_tasks)
        self.at.waited += waited
        if found := tuple(found):
            losses.append(found)

    def _feature_steps(
        self, state: MetaState, episode: Episode, place: tuple[int, Kind], progress: float, losses: list[tuple[float, ...]]
    ) -> MetaState:
        """Return ``state`` after feature steps (on weights and alphas) of a slot and kind; unchanged if a loss is not finite."""
        slot, kind = place
        load_meta_state(self.net, state, self.buffers)
        # a supernet of sizes trains parts of itself, whatever its alphas; else the discrete network alone after the commitment
        discrete = self.phases.committed and self.net.alphas() and not self.has_sizes
        net = self.net.with_body(derive(self.net.body, genotype(self.net.body))) if discrete else self.net
        generator = np.random.default_rng(list(self._seed(_LEARN, self.at.iteration, slot)))
        task, sampler = open_task(episode, self.settings.plan, generator)
        context = Context(generator, self.runtime)
        # the contrast moves no alphas: it finds networks without skips, which segment worse (docs/results/start.md)
        rate, search = self.phases.feature_rate(progress), kind != "synthesis" and self.phases.searches_features(progress)
        variants = draw_sandwich if self.has_sizes else None
        try:
            relaxed, objective = start_relaxed(self.settings.learner), "contrast" if kind == "synthesis" else "head"
            search = search and not self.has_sizes
            found = self.features.run(net, task, context, rate, search, relaxed, objective=objective, variants=variants)
        except NonFiniteLossError as error:
            self._note(episode.task.key, str(error), (), 0.0, losses)
            return state
        self._note(episode.task.key, "", found, sampler.waited, losses)
        after = meta_state(net)
        alphas = state.alphas if discrete else {n: center_row(a) for n, a in after.alphas.items()}
        return MetaState({**state.weights, **after.weights}, alphas)

    def _seed(self, stream: int, *place: int) -> tuple[int, ...]:
        """Return the seed of one place in the run; it does not depend on earlier draws."""
        return (self.settings.seed, stream, *place)

    def _generator(self, stream: int, *place: int) -> np.random.Generator:
        return np.random.default_rng(list(self._seed(stream, *place)))

    def episodes(self, iteration: int) -> Iterator[tuple[Kind, Episode]]:
        """Yield kinds and training episodes from ``iteration`` on, ``meta.batch`` an iteration, without end."""
        while True:
            kind = self.phases.kind(self.progress(iteration), self._generator(_KIND, iteration))
            for slot in range(self.settings.meta.batch):
                yield kind, self.draw(self._generator(_DRAW, iteration, slot), kind)
            iteration += 1

    def draw(self, generator: np.random.Generator, kind: Kind = "tasks") -> Episode:
        """Return a training episode: made up for ``synthesis``, else label-free (probability ``pretext.mix``) or of an organ."""
        if kind == "synthesis" and self.made_up:
            return self.made_up.draw(generator)
        if self.pretexts and generator.random() < self.settings.pretext.mix:
            return self.pretexts.draw(generator)
        plan = vary(self.settings.plan, generator)
        return (self.tasks if plan is self.settings.plan else replace(self.tasks, plan=plan)).draw(generator)

    def _open_pretexts(self) -> PretextSource:
        """Return the label-free episodes of the training data sets; held-out and validation sets are excluded."""
        s = self.settings
        sets = [self.tasks.datasets[name] for name in self.tasks.training_sets]
        only = s.pretext.mix == 1
        return build_source(sets, s.pretext, s.plan, s.space.levels, s.space.dims, strict=only, labels=not only)

    def _open_synthesis(self) -> SynthesisSource:
        """Return the made-up volumes; shapes come from the training data sets, or are random where no label may be read."""
        s = self.settings
        sets = [self.tasks.datasets[name] for name in self.tasks.training_sets]
        return build_synthesis(sets if s.pretext.mix < 1 else None, s.pretext, s.plan, s.space.levels, s.space.dims)

    def _row(self, kind: Kind, losses: list[tuple[float, ...]], progress: float, waited: float) -> dict[str, float]:
        """Return the tracked values of an iteration: mean last and first losses, alpha statistics, step sizes, seconds."""
        entropy, top = alpha_statistics(self.state.alphas)
        name = "contrast" if kind == "synthesis" else "loss"  # they have no common scale
        return {
            name: float(np.mean([found[-1] for found in losses])) if losses else math.nan,
            f"{name}_first_step": float(np.mean([found[0] for found in losses])) if losses else math.nan,
            "alpha_entropy": entropy,
            "alpha_top": top,
            **self.meta.rates(progress),
            "bad_tasks": float(self.at.num_bad),
            "seconds": self.at.seconds,
            "data_wait_share": (self.at.waited + waited) / max(self.at.seconds, 1e-9),
        }

    def _validate(self) -> dict[str, float]:
        """Return the mean query Dice of the fixed validation episodes, if any; save the best state."""
        mean = self.validator.dice(self.solve, self.state)
        if mean is None:
            return {}
        if mean > self.at.best:
            self.at.best = mean
            self.folder.save("best", self._snapshot())
        return {"query_dice": mean, "best_query_dice": self.at.best}

    def _calibrate(self) -> None:
        """Measure the candidates' gains on features of training organs, once, before the first step."""
        batches = []
        for number in range(4):
            generator = self._generator(_CALIBRATE, number)
            # organ tasks if there are any: no synthetic, recast or label-free episodes
            episode = self.tasks.draw(generator, self.tasks.train) if self.tasks.train else self.draw(generator)
            sampler = PatchSampler(episode.support, episode.plan.view, generator, augment=False)
            self.net.start_task(episode.num_channels, episode.task.num_organs)
            with torch.no_grad():
                images = self.net.stem(self.runtime.place(sampler.batch(1).images), self.net.task["channels"])
            batches.append((images, episode.plan.strides))
        calibrate(self.net.body, batches)

    def _time_left(self) -> float:
        s, done = self.settings.meta, max(self.at.iteration, 1)
        left = (s.iterations - self.at.iteration) * self.at.seconds / done
        return min(left, s.max_seconds - self.at.seconds) if s.max_seconds else left

    def save(self) -> None:
        """Write the checkpoint ``last``: the state after the last complete iteration."""
        with unstopped():
            self.folder.save("last", self.whole)

    def _snapshot(self) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
        memory = getattr(self.meta, "state", dict)()
        return self.folder.snapshot(self.state, self.buffers, self.features.state(), self.at, memory)

    def _load(self) -> None:
        """Restore the state of the folder's last checkpoint."""
        state, self.buffers, features, self.at, memory = self.folder.load()
        load_meta_state(self.net, state)
        self.state = meta_state(self.net)  # on the run's device
        self.features.load(features)
        if memory:
            self.meta.load(memory)  # type: ignore[attr-defined]

    def _draw_figures(self) -> None:
        load_meta_state(self.net, self.state, self.buffers)
        self.net.body.relax(Relaxed())  # at temperature 1
        folder, tracker = self.folder.path, self.folder.tracker
        at = self.at
        learned = at.learned or (None if at.committed else Learned.of(self.state.alphas, at.trail, at.iteration))
        if not write_figures(folder, self.net.body, self.validator, tracker, learned, at.committed):
            return
        for name in ("last", "best"):
            if (path := folder / f"{name}.safetensors").exists():
                tracker.artifact(name, path, "meta-state")
        tracker.summary({"iterations": at.iteration, "seconds": at.seconds, "best_query_dice": at.best, "bad_tasks": at.num_bad})
