"""A source of label-free episodes: unlabelled scans of cached data sets, drawn and planned without reading labels."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..data.cached import CachedDataset
from ..data.plan import Plan, fit_plan, stride_schedule
from ..data.settings import PlanSettings
from ..errors import DataError
from ..tasks.episode import Episode
from ..tasks.organ import OrganTask
from .base import LEAST, EpisodeMaker, Frame, Pretext, Scan, TooLittleContent
from .registry import build_maker, build_pretext, check_pretexts, makes_episodes
from .settings import PretextSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretextSource:
    """Unlabelled scans by data set, and pretexts that need no scan.

    An episode draws a pretext uniformly by name. If it labels scans, a group, a data set and patients are drawn, each uniformly.
    """

    datasets: Mapping[str, CachedDataset]
    usable: Mapping[str, tuple[str, ...]]  #: case names by data set
    settings: PretextSettings
    plan: PlanSettings
    levels: int
    dims: int
    set_aside: dict[str, set[str]] = field(default_factory=dict)  #: case names by data set: too small, or nearly all air
    makers: Mapping[str, EpisodeMaker] = field(default_factory=dict)  #: pretexts that make whole episodes, by name

    @property
    def num_scans(self) -> int:
        return sum(len(names) for names in self.usable.values())

    @property
    def num_set_aside(self) -> int:
        # a copy, because the thread that draws episodes may add a data set at the same time
        return sum(len(names) for names in list(self.set_aside.values()))

    def draw(self, generator: np.random.Generator) -> Episode:
        """Return a random label-free episode; it depends only on the generator, not on earlier draws.

        A scan that proves too small or too empty is set aside, counted and replaced by another. If no scan is suitable,
        another data set or pretext is drawn. Raises DataError if none is left.
        """
        if self.makers:
            name = self.settings.names[int(generator.integers(len(self.settings.names)))]
            if name in self.makers:
                return self.makers[name].draw(np.random.default_rng(generator.integers(2**62)))
        of_scans = [name for name in self.settings.names if name not in self.makers]
        pairs = {name: list(of_scans) for name in sorted(self.usable)}
        while True:  # runs once, unless a data set has no suitable scan
            groups: dict[str, list[str]] = {}
            for name in pairs:
                groups.setdefault(self.datasets[name].group, []).append(name)
            names = groups[sorted(groups)[int(generator.integers(len(groups)))]]
            dataset = self.datasets[names[int(generator.integers(len(names)))]]
            pretexts = pairs[dataset.name]
            pretext_name = pretexts[int(generator.integers(len(pretexts)))]
            cases = self._patients(dataset, generator)
            share = float(generator.uniform(self.settings.zoom, 1.0))
            while cases:  # runs once, unless scans have to be set aside
                made = self._episode(dataset, pretext_name, cases, share, np.random.default_rng(generator.integers(2**62)))
                if made is not None:
                    return made
            pretexts.remove(pretext_name)
            if not pretexts:
                del pairs[dataset.name]
            if not pairs:
                raise DataError(
                    f"{dataset.name}: no scan is suitable for the pretext {pretext_name}: all are under {LEAST} voxels per axis "
                    f"on their plan's grid, or nearly all air ({self.num_set_aside} set aside). "
                    "Raise plan.view_voxels or pretext.zoom, or use other scans."
                )

    def _patients(self, dataset: CachedDataset, generator: np.random.Generator) -> list[str]:
        """Return one case of every patient, in random order."""
        patients: dict[str, list[str]] = {}
        usable = set(self.usable[dataset.name])
        for case in dataset.cases:
            if case.name in usable:
                patients.setdefault(case.patient, []).append(case.name)
        order = sorted(patients)
        chosen = [patients[order[int(i)]] for i in generator.permutation(len(order))]
        return [sorted(scans)[int(generator.integers(len(scans)))] for scans in chosen]

    def _episode(
        self, dataset: CachedDataset, name: str, cases: list[str], share: float, generator: np.random.Generator
    ) -> Episode | None:
        """Return the episode of the first of ``cases``, or None after removing unsuitable ones from the list."""
        chosen = cases[: self.settings.scans]
        plan, scans = planned(dataset, chosen, self.plan, share, self.levels)
        small = [s.name for s in scans if min(s.content.shape[:2]) < LEAST]
        if small:
            return self._drop(dataset.name, cases, small, "too small")
        pretext = build_pretext(name, self.settings, frame_of(dataset, chosen, plan, scans, self.dims), generator)
        volumes, empty = [], []
        for scan in scans:
            try:
                volumes.append(pretext.volume(scan, generator))
            except TooLittleContent:
                empty.append(scan.name)
        if empty:
            return self._drop(dataset.name, cases, empty, "nearly all air")
        return Episode(
            _task(name, pretext), _volume_plan(plan, pretext, self.levels, self.plan.thick_stride), tuple(volumes), lasting=False
        )

    def _drop(self, dataset: str, cases: list[str], names: Sequence[str], why: str) -> None:
        known = self.set_aside.setdefault(dataset, set())
        for name in names:
            cases.remove(name)
            if name not in known:
                log.warning("%s: set aside %s: %s for a label-free task (%d so far)", dataset, name, why, len(known) + 1)
                known.add(name)


def planned(
    dataset: CachedDataset, names: Sequence[str], settings: PlanSettings, share: float, levels: int
) -> tuple[Plan, list[Scan]]:
    """Return a plan whose view shows ``share`` of the content along each axis, and the scans on its grid; reads no labels.

    Views vary between episodes, like those of organ tasks. For a plan that covers whole scans and needs only headers, see
    ``data.unlabelled.plan_without_labels``.
    """
    cases = {c.name: c for c in dataset.cases}
    images = [dataset.lazy_image(n) for n in names]
    spacings = [cases[n].spacing for n in names]
    boxes = []
    for name in names:
        # fit_plan expects organs: give it a box within the content instead
        pretend = np.zeros(cases[name].shape, dtype=bool)
        pretend[tuple(_inner(low, high, share) for low, high in cases[name].content_box)] = True
        boxes.append(pretend)
    plan = fit_plan(
        images, boxes, spacings, dataset.modality, view_voxels=settings.view_voxels, margin=1.0, levels=levels,
        ratio=settings.ratio, thick_stride=settings.thick_stride,
    )  # fmt: skip
    scans = [Scan.of(n, plan.apply_image(im, s).numpy()) for n, im, s in zip(names, images, spacings, strict=True)]
    return plan, scans


def _inner(low: int, high: int, share: float) -> slice:
    size = max(1, round((high - low) * share))
    start = low + (high - low - size) // 2
    return slice(start, start + size)


def frame_of(dataset: CachedDataset, names: Sequence[str], plan: Plan, scans: Sequence[Scan], dims: int) -> Frame:
    """Return the frame of the planned ``scans``."""
    spacing = {c.name: c.spacing for c in dataset.cases}
    x, y, z = plan.axes
    natives = {(spacing[n][x], spacing[n][y], spacing[n][z]) for n in names}
    shape = np.min([s.content.shape for s in scans], axis=0)
    view = np.minimum(np.maximum(plan.view, (LEAST, LEAST, 1)), shape)
    return Frame(
        (int(shape[0]), int(shape[1]), int(shape[2])),
        (int(view[0]), int(view[1]), int(view[2])),
        plan.spacing,
        tuple(sorted(natives)),
        len(plan.intensities),
        dims,
    )


def _task(name: str, pretext: Pretext) -> OrganTask:
    return OrganTask(f"pretext-{name}", pretext.names, tuple((k,) for k in range(1, len(pretext.names) + 1)))


def _volume_plan(plan: Plan, pretext: Pretext, levels: int, thick_stride: int) -> Plan:
    """Return ``plan`` with a view of the size of a whole volume."""
    return replace(plan, view=pretext.shape, strides=stride_schedule(pretext.shape, plan.spacing, levels, thick_stride))


def build_source(
    datasets: Iterable[CachedDataset],
    settings: PretextSettings,
    plan: PlanSettings,
    levels: int,
    dims: int,
    names: Mapping[str, Sequence[str]] | None = None,
    strict: bool = True,
    labels: bool = False,
) -> PretextSource:
    """Return the source of label-free episodes of ``datasets`` (only the cases ``names`` by data set, if given).

    ``labels`` lets pretexts that need no scan take shapes from label maps; otherwise no label is read, and all shapes are
    random. Scans too small for a pretext's grid are set aside and counted. A data set with fewer usable patients than an
    episode needs raises DataError. Without ``strict`` it is skipped with a warning, and DataError is raised only if no data
    set is left. Where no pretext labels scans, none are needed. Raises ConfigError for an unknown pretext.
    """
    check_pretexts(settings.names)
    sets = list(datasets)
    without = {name for name in settings.names if makes_episodes(name)}
    makers = {name: build_maker(name, sets if labels else None, settings, plan, levels, dims) for name in sorted(without)}
    found, usable, set_aside = {}, {}, {}
    if without != set(settings.names):
        found, usable, set_aside = _usable(sets, settings, names, strict)
    return PretextSource(found, usable, settings, plan, levels, dims, set_aside, makers)


def _usable(
    datasets: Iterable[CachedDataset], settings: PretextSettings, names: Mapping[str, Sequence[str]] | None, strict: bool
) -> tuple[dict[str, CachedDataset], dict[str, tuple[str, ...]], dict[str, set[str]]]:
    """Return the data sets with enough scans, their usable cases, and the cases that were set aside, each by data set."""
    found: dict[str, CachedDataset] = {}
    usable: dict[str, tuple[str, ...]] = {}
    set_aside: dict[str, set[str]] = {}
    for dataset in datasets:
        cases = [c for c in dataset.cases if names is None or c.name in set(names.get(dataset.name, ()))]
        # one axis may be short: tasks then stay within slices
        small = {c.name for c in cases if sorted(c.shape)[1] < LEAST}
        if small:
            log.warning(
                "%s: set aside %d scan(s) under %d voxels per axis: too small for a pretext", dataset.name, len(small), LEAST
            )
            set_aside[dataset.name] = small
        patients = {c.patient for c in cases if c.name not in small}
        if len(patients) < settings.scans:
            problem = f"{dataset.name}: found usable scans of {len(patients)} patient(s) ({len(small)} too small), "
            problem += f"expected {settings.scans} for a label-free episode. Add scans, or lower pretext.scans."
            if strict:
                raise DataError(problem)
            log.warning("%s Skipped.", problem)
            continue
        found[dataset.name], usable[dataset.name] = dataset, tuple(c.name for c in cases if c.name not in small)
    if not found:
        raise DataError(
            f"no data set has enough scans for label-free episodes of {settings.scans} (pretext.scans). Prepare more scans."
        )
    return found, usable, set_aside
