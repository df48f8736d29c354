"""Checks that raise where a benchmark would be invalid: leaks, and settings chosen on test groups."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...data.cached import CachedDataset
from ...data.cards import held_out_datasets, load_cards
from ...data.settings import PlanSettings
from ...engine.meta_run import MetaRun
from ...engine.older import is_older, phases_of_today, settings_of_today
from ...engine.settings import Settings
from ...errors import ConfigError, DataError
from ..grid.frozen import NOT_FROZEN, check_same, differences, hold_settings
from .methods import default_entry, frozen_table
from .settings import BenchmarkGroup, BenchmarkSettings, shipped_benchmark


def check_held_out(datasets: Mapping[str, CachedDataset], run: MetaRun, dataset: str) -> None:
    """Raise DataError where a meta-trained run has seen ``dataset`` or anything related to it."""
    check_unseen(datasets, {key.split("/", 1)[0] for key in run.train_tasks}, dataset)


def check_unseen(datasets: Mapping[str, CachedDataset], seen: Iterable[str], dataset: str) -> None:
    """Raise DataError where ``dataset`` or anything related to it is among the data sets ``seen`` by meta-training."""
    own = datasets[dataset]
    # what the run was trained on need not be in this cache: cards name relatives as well
    known = {name: (name, card.group, card.related) for name, card in load_cards().items()}
    known |= {d.name: (d.name, d.group, d.related) for d in datasets.values()}
    related = held_out_datasets([own.name, own.group], known.values())
    both = sorted(set(seen) & (set(related) | {dataset}))
    if both:
        raise DataError(
            f"{dataset} was to be held out, but meta-training saw {', '.join(both)}. Hold out everything related to it."
        )


def check_unlabelled(
    dataset: CachedDataset,
    seen: Sequence[str],
    support: Sequence[str],
    query: Sequence[str],
    held_back: Sequence[str],
    transductive: bool,
    same_voxels: Sequence[str] = (),
) -> None:
    """Raise DataError where label-free steps would see a case that they must not. All arguments are case names of ``dataset``.

    ``seen`` may hold no patient of the support. If ``transductive``, it must be exactly the ``query`` cases. Otherwise it may
    hold no patient of ``held_back`` (the query cases of all cells), and ``same_voxels`` (scans with the voxels of a query
    scan) must be empty.
    """
    patient = {c.name: c.patient for c in dataset.cases}
    given = {patient[n] for n in seen}
    for name, cases in (("support", support), ("query", () if transductive else held_back)):
        both = given & {patient[n] for n in cases}
        if both:
            raise DataError(
                f"{dataset.name}: {len(both)} patient(s) are in {name} and among the unlabelled scans. Split by patient."
            )
    if transductive and set(seen) != set(query):
        raise DataError(
            f"{dataset.name}: a transductive cell learns from exactly its {len(query)} query scan(s), found {len(seen)} other "
            "ones."
        )
    if not transductive and same_voxels:
        raise DataError(
            f"{dataset.name}: {len(same_voxels)} unlabelled scan(s) have the same voxels as a query scan: {same_voxels[0]}."
        )


def check_development(settings: BenchmarkSettings) -> None:
    """Raise ConfigError where a development group holds a data set of, or related to, a test group of the shipped benchmark.

    Settings are chosen on development groups. The shipped benchmark would then be evaluated on organs that it was tuned on.
    """
    cards = load_cards()
    for group in (g for g in settings.groups if g.development):
        for name in (d.dataset for d in group.data):
            entry = (name, cards[name].group, cards[name].related) if name in cards else (name, name, ())
            if found := claimed_by(*entry):
                raise ConfigError(
                    f"groups: {group.name} is marked as development, but {name} belongs to the benchmark's test group {found}. "
                    f"Choose settings on others, such as {', '.join(g.name for g in shipped_groups() if g.development)}."
                )


def check_free(dataset: CachedDataset) -> None:
    """Raise ConfigError for a data set of, or related to, a test group of the shipped benchmark.

    Use it where results may change defaults.
    """
    if group := claimed_by(dataset.name, dataset.group, dataset.related):
        free = [d.dataset for g in shipped_groups() if g.development for d in g.data]
        raise ConfigError(
            f"dataset: {dataset.name} belongs to the benchmark's test group {group}. Take a development data set, such as "
            f"{', '.join(free)}."
        )


def claimed_by(name: str, group: str, related: Iterable[str]) -> str:
    """Return the test group of the shipped benchmark that a data set belongs or is related to.

    Empty where settings may be chosen on it.
    """
    for other in (g for g in shipped_groups() if not g.development):
        if held_out_datasets({*other.hold_out, *(d.dataset for d in other.data)}, [(name, group, related)]):
            return other.name
    return ""


def shipped_groups() -> tuple[BenchmarkGroup, ...]:
    """Return the groups of the shipped benchmark."""
    return shipped_benchmark().groups


def frozen_settings(settings: BenchmarkSettings) -> dict[str, Any]:
    """Return everything that cells depend on, as JSON values: recipe, plan, table of methods, scored cases, held-out groups."""
    run = settings.run.model_dump(mode="json", exclude=set(NOT_FROZEN))
    pretext = run.pop("pretext")
    rest = settings.model_dump(mode="json", include={"plan", "num_query", "curve_query", "curve_steps"})
    groups = {g.name: g.model_dump(mode="json") for g in settings.groups}
    return json.loads(json.dumps({"run": run, **rest, "pretext": pretext, "groups": groups, "table": frozen_table()}))


def development_groups(asked: BenchmarkSettings, frozen: BenchmarkSettings) -> set[str]:
    """Return the names of the development groups of both: the command line alone cannot turn a test group into one."""
    return {g.name for g in frozen.groups if g.development} & {g.name for g in asked.groups if g.development}


def check_settings(settings: BenchmarkSettings, frozen: BenchmarkSettings, groups: Sequence[str]) -> None:
    """Raise ConfigError where cells of ``groups`` would be made with settings that are not allowed.

    Test groups (all that the file does not mark as development) run with the file's settings alone. And a folder holds cells
    of one set of settings: those of its first cells are noted in it.
    """
    development = development_groups(settings, frozen)
    test = [name for name in groups if name not in development]
    given = frozen_settings(settings)
    different = differences(given, frozen_settings(frozen))
    if test and different:
        raise ConfigError(
            f"test groups ({', '.join(test)}) run with the settings of the configuration file alone; {different[0]} differs "
            "from it. Choose settings on development groups (--only NAME --out FOLDER), then freeze them in the file."
        )
    hold_settings(Path(settings.out), given, partial(_with_new_entries, given))


def check_made_alike(settings: BenchmarkSettings, path: Path) -> None:
    """Raise ConfigError where ``path``, the settings of a run's cells, is missing or differs from ``settings``."""
    given = frozen_settings(settings)
    check_same(path, given, partial(_with_new_entries, given))


#: the kinds of meta-training as files of before the settings were grouped by part note them
_OLDER_KINDS: dict[str, Any] = {
    "metanas": {},
    "metanas-mixed": {"pretext": {"mix": 0.5}},
    "reptile": {},
    "joint": {"features": {"head": "trained", "first": 1.0}},
    "fomaml": {"learner": {"name": "fomaml", "steps": 3, "lr": 0.05}, "meta": {"beta_weights": 0.05}},
    "reptile-plain": {"learner": {"head": "meta_row"}},
    "joint-plain": {"learner": {"head": "meta_row"}, "features": {"head": "trained", "first": 1.0}},
}


def _kind_of_today(made: dict[str, Any]) -> dict[str, Any]:
    """Return what a kind of meta-training changes, with a recipe where it noted the shares of the features."""
    features = made.get("features", {})
    if "first" not in features and "last" not in features:
        return made
    left = {key: value for key, value in features.items() if key not in ("first", "last")}
    recipe = [phase.model_dump(mode="json") for phase in phases_of_today(features)]
    found = {key: value for key, value in made.items() if key != "features"} | {"phases": recipe}
    return found | ({"features": left} if left else {})


def _with_new_entries(given: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Return the earlier settings with the methods, kinds and keys that were added later: no cell was made with them.

    A newer key of the recipe or the plan gets its default, which must change nothing.
    """
    run = Settings.model_validate(settings_of_today(earlier["run"])).model_dump(mode="json", exclude={*NOT_FROZEN, "pretext"})
    plan = PlanSettings.model_validate(earlier["plan"]).model_dump(mode="json")
    # a newer key of a method has a default that changes nothing
    default = json.loads(json.dumps(default_entry()))
    known = {name: {**default, **entry} for name, entry in earlier["table"]["methods"].items()}
    kinds = earlier["table"]["pretrainings"]
    if is_older(earlier["run"]):  # kinds were noted as differences from the defaults of that time
        kinds = {
            kind: given["table"]["pretrainings"][kind] if made == _OLDER_KINDS.get(kind) else made for kind, made in kinds.items()
        }
    kinds = {kind: _kind_of_today(made) for kind, made in kinds.items()}
    table = {"methods": {**given["table"]["methods"]}, "pretrainings": {**given["table"]["pretrainings"], **kinds}}
    table["methods"] |= known
    return {**earlier, "run": run, "plan": plan, "pretext": {**given["pretext"], **earlier.get("pretext", {})}, "table": table}
