"""Checks of one model, run or data set from end to end; nothing is changed and nothing is written.

Each check is a line of (what, state, detail), as in ``doctor.py``. A "fail" means that the thing, or a part of it, cannot be used.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.bids import is_bids
from ..data.cached import CachedCase, CachedDataset, open_cache, open_caches
from ..data.case_check import check_case, content_box, content_hash
from ..data.dataset import survey_dataset
from ..data.options import STRICT, ReadOptions
from ..data.set_check import intensity_misfits, odd_cases
from ..errors import CheckpointError, DataError, UserError
from ..files import CACHE_FILES
from ..learner import Runtime
from ..privacy import PRIVATE_FILE, case_id
from ..tracking import read_rows
from .checkpoint import load_state
from .doctor import Finding, State
from .meta_run import MetaRun
from .model import Model
from .model_check import WRONG_VALUES
from .older import settings_of_today
from .predict import predict_scores
from .settings import Settings
from .state import build_network, load_meta_state

OnCase = Callable[[int, int], None]
_MOST_LINES = 20  #: bad cases of a data set that are listed one by one
_VIEW_VOXELS = 10_000_000  #: a larger view is no view


def examine(path: Path, options: ReadOptions = STRICT, on_case: OnCase | None = None) -> list[Finding]:
    """Return the findings on a model, run or data set (a folder, an .h5 file, or a folder of these) at ``path``.

    ``on_case(done, total)`` is called after each scan. Raises DataError if ``path`` is none of these.
    """
    path = Path(path)
    if path.suffix == ".h5":
        return list(check_cache_file(path, on_case))
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {found}; expected the folder of a model, a run or a data set, or an .h5 file")
    if any((path / name).exists() for name in ("model.json", "model.safetensors", "adaptation.json")):
        return list(_to_the_end(check_model(path)))
    if any((path / name).exists() for name in ("last.json", "last.safetensors", "iteration.jsonl")):
        return list(_to_the_end(check_run(path)))
    if any((path / name).exists() for name in ("dataset.json", "imagesTr")) or is_bids(path):
        return list(check_folder_of_scans(path, options, on_case))
    if caches := sorted(path.glob(CACHE_FILES)):
        return [finding for cache in caches for finding in check_cache_file(cache, on_case)]
    raise DataError(
        f"{path} is no model (model.json), no run (last.json) and no data set (dataset.json, or .h5 files). Check the path."
    )


def _to_the_end(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield ``findings``; a value that no check expects ends them with a "fail" instead of an error."""
    last = "files"
    try:
        for finding in findings:
            last = finding[0]
            yield finding
    except (*WRONG_VALUES, OSError) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        yield ("checks", "fail", f"the check after {last!r} found values that cannot be used ({told}); restore the folder")


def check_model(folder: Path) -> Iterator[Finding]:
    """Yield the findings on a model: files, hashes, network, plan, a forward pass, and the notes."""
    try:
        tensors, note = load_state(folder, "model", "model")
    except CheckpointError as error:
        yield ("tensors", "fail", str(error))
        return
    yield ("tensors", "ok", f"{len(tensors)} tensors, the hash is that of model.json")
    yield _finite("weights", tensors)
    yield from _notes(folder, note)
    try:
        model = Model.load(folder, "cpu", "float32")
    except UserError as error:
        yield ("network", "fail", str(error))
        return
    organs = ", ".join(model.task.names)
    yield ("network", "ok", f"{sum(t.numel() for t in tensors.values()) / 1e6:.2f} million values; organs: {organs}")
    problem = _plan_problem(model)
    spacing = " x ".join(f"{size:.3g}" for size in model.plan.spacing)
    yield ("plan", "fail" if problem else "ok", problem or f"views of {_by(model.plan.view)} voxels of {spacing} mm")
    problem = _intensity_problem(note["plan"])
    channels = len(model.plan.intensities)
    yield ("intensities", "fail" if problem else "ok", problem or f"{channels} channel(s)")
    if not _plan_problem(model):
        yield _forward(model)
    listed = model.support
    if not listed:
        yield ("support", "warn", "the model does not record its support scans: evaluate cannot leave them out")
    elif bad := [digest for digest in listed if not re.fullmatch("[0-9a-f]{64}", digest)]:
        yield ("support", "fail", f"{len(bad)} of {len(listed)} support hashes are no SHA-256, the first: {bad[0]!r}")
    else:
        yield ("support", "ok", f"{len(listed)} scan(s), known by their voxels")


def _notes(folder: Path, note: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the findings on architecture.json, adaptation.json and the local file with names."""
    found, problem = _json(folder / "architecture.json")
    expected = note.get("genotype") or {"space": (note.get("space") or {}).get("name"), "settings": note.get("space")}
    if not problem and found != expected:
        problem = "architecture.json differs from model.json; restore one of them"
    yield ("architecture", "fail" if problem else "ok", problem or "as in model.json")
    if not (folder / "adaptation.json").exists():
        yield ("adaptation", "warn", "no adaptation.json: the history of the model is unknown")
    else:
        found, problem = _json(folder / "adaptation.json")
        if not problem and found.get("model_sha256") != note.get("sha256"):
            problem = "adaptation.json belongs to another model: its model_sha256 differs from the hash in model.json"
        identifiers = {case_id(str(digest)) for digest in note.get("support_content", ())}
        named = [str(name) for name in found.get("support", ())] if isinstance(found, dict) else []
        own = [name.rsplit("-", 1)[0] if name.count("-") == 2 else name for name in named if name.startswith("case-")]
        if not problem and identifiers and (strange := sorted(set(own) - identifiers)):
            problem = f"adaptation.json names support scans that model.json does not know: {', '.join(strange[:3])}"
        yield (
            "adaptation",
            "fail" if problem else "ok",
            problem or f"{len(named)} support scan(s), the hash is that of model.json",
        )
    if (folder / PRIVATE_FILE).exists():
        yield ("privacy", "ok", f"{PRIVATE_FILE} names the scans: leave it out when you share the folder")


def _finite(what: str, tensors: Mapping[str, torch.Tensor]) -> Finding:
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        return (what, "fail", f"{len(bad)} of {len(tensors)} tensors have values that are not finite, the first: {bad[0]}")
    return (what, "ok", "all values are finite")


def _plan_problem(model: Model) -> str:
    """Return what is wrong with the plan of a model, or an empty string."""
    plan, levels = model.plan, model.space.levels
    if sorted(plan.axes) != [0, 1, 2]:
        return f"found axes {plan.axes}, expected an order of 0, 1, 2"
    if len(plan.spacing) != 3 or not all(math.isfinite(size) and size > 0 for size in plan.spacing):
        return f"found a voxel size of {plan.spacing} mm, expected three positive numbers"
    if len(plan.view) != 3 or min(plan.view) < 1 or math.prod(plan.view) > _VIEW_VOXELS:
        return f"found views of {_by(plan.view)} voxels, expected 1 to {_VIEW_VOXELS} in all"
    if len(plan.strides) != levels - 1 or any(step not in (1, 2) for triple in plan.strides for step in triple):
        return f"found strides {plan.strides}, expected {levels - 1} of 1 or 2 along each axis"
    if model.spacing and not all(math.isfinite(size) and size > 0 for size in model.spacing):
        return f"found a support voxel size of {model.spacing} mm, expected positive numbers"
    return ""


def _intensity_problem(plan: Mapping[str, Any]) -> str:
    """Return what is wrong with the normalisation of a channel, or an empty string: no window may make an image constant."""
    for channel, entry in enumerate(plan["intensities"]):
        numbers = {key: value for key, value in entry.items() if isinstance(value, int | float) and not isinstance(value, bool)}
        if bad := [key for key, value in numbers.items() if not math.isfinite(value)]:
            return f"channel {channel}: {bad[0]} is not finite"
        if entry.get("kind") == "ct" and not numbers.get("low", 0.0) < numbers.get("high", 0.0):
            low, high = numbers.get("low", 0.0), numbers.get("high", 0.0)
            return f"channel {channel}: the window from {low:g} to {high:g} makes each image constant; adapt again"
        if not numbers.get("scale", 1.0) > 0:
            return f"channel {channel}: found a scale of {numbers['scale']:g}, expected a positive number; adapt again"
    return ""


def _forward(model: Model) -> Finding:
    """Return whether the network segments a random volume of the plan's view."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(len(model.plan.intensities), *model.plan.view, generator=generator)
    try:
        scores = predict_scores(model.net, image, model.plan, Runtime(bfloat16=False))
    except (RuntimeError, ValueError, IndexError) as error:
        return ("forward pass", "fail", f"the network fails on a random volume: {str(error).splitlines()[0]}")
    expected = (model.task.num_organs + 1, *model.plan.view)
    if tuple(scores.shape) != expected:
        return ("forward pass", "fail", f"found scores of shape {tuple(scores.shape)}, expected {expected}")
    if not bool(torch.isfinite(scores).all()):
        return ("forward pass", "fail", "the scores of a random volume are not finite")
    return ("forward pass", "ok", f"finite scores of {model.task.num_organs} organ(s) and background on a random volume")


def check_run(folder: Path) -> Iterator[Finding]:
    """Yield the findings on a meta-training: checkpoints, settings, tracked rows, caches, and whether it can be resumed."""
    stems = {path.stem for path in folder.glob("*.safetensors") if not path.name.startswith(".")}
    names = ["last", *sorted((stems | {name for name in ("best", "previous") if (folder / f"{name}.json").exists()}) - {"last"})]
    note: dict[str, Any] = {}
    for name in names:
        try:
            tensors, found = load_state(folder, name, "meta-state")
        except CheckpointError as error:
            yield (name, "fail", str(error))
            continue
        note = found if name == "last" else note
        finite = _finite(name, tensors)
        if finite[1] == "fail":
            yield finite
            continue
        yield _loads(folder, name, found)
    settings = None
    if (folder / "settings.json").exists():
        values, problem = _json(folder / "settings.json")
        try:
            settings = None if problem else Settings.model_validate(settings_of_today(values))
        except (ValueError, TypeError, KeyError) as error:
            problem = f"settings.json: {' '.join(str(error).split())[:200]}"
        yield ("settings", "fail" if problem else "ok", problem or "settings.json is valid")
    else:
        yield ("settings", "warn", "no settings.json: the run can be adapted from, but not resumed")
    yield from _rows(folder, note)
    if settings is not None:
        yield _caches(Path(settings.cache), note)
    if note:
        yield _resumable(note, settings)


def _loads(folder: Path, name: str, note: Mapping[str, Any]) -> Finding:
    """Return whether a checkpoint's network can be built and takes its weights."""
    try:
        run = MetaRun.load(folder, name)
        load_meta_state(build_network(run.settings.space, 0), run.state, run.buffers)
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        return (name, "fail", f"the network cannot be loaded: {' '.join(str(error).split())[:200]}")
    missing = [key for key in ("iteration", "train_tasks", "held_out", "seconds", "best") if key not in note]
    if missing:
        return (name, "fail", f"{name}.json lacks {', '.join(missing)}; restore it")
    size = sum(value.numel() for value in run.state.weights.values()) / 1e6
    return (name, "ok", f"iteration {note['iteration']}, {size:.2f} million weights, all finite; the hash is right")


def _rows(folder: Path, note: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield whether the tracked rows are those of iterations 1, 2, ... n, each once, in both files."""
    path, table = folder / "iteration.jsonl", folder / "iteration.csv"
    if not path.exists():
        yield ("rows", "warn", "no iteration.jsonl: the course of the run is unknown")
        return
    try:
        rows = read_rows(path)
        numbers = [int(row["iteration"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        yield ("rows", "fail", f"iteration.jsonl is damaged ({' '.join(str(error).split())[:120]})")
        return
    wrong = next((place for place, number in enumerate(numbers, 1) if number != place), None)
    done = note.get("iteration")
    if wrong is not None:
        yield ("rows", "fail", f"iteration.jsonl: row {wrong} is of iteration {numbers[wrong - 1]}; rows are missing or repeated")
    elif done is not None and len(rows) < done:
        yield ("rows", "fail", f"iteration.jsonl ends at iteration {len(rows)}, last.json is at {done}")
    elif done is not None and len(rows) > done:
        yield ("rows", "warn", f"iteration.jsonl goes to {len(rows)}, last.json to {done}: --resume repeats the difference")
    else:
        yield ("rows", "ok", f"iterations 1 to {len(rows)}, each once")
    if not table.exists():
        yield ("csv", "warn", "no iteration.csv: the run was stopped hard; --resume writes it")
        return
    with open(table, encoding="utf-8", errors="replace", newline="") as stream:
        written = list(csv.DictReader(stream))
    given = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    same = len(written) == len(given) and all(
        {key: value for key, value in one.items() if value} == {key: value for key, value in other.items() if value}
        for one, other in zip(written, given, strict=False)
    )
    yield (
        "csv",
        "ok" if same else "fail",
        "iteration.csv has the same rows" if same else "iteration.csv differs from iteration.jsonl",
    )


def _caches(cache: Path, note: Mapping[str, Any]) -> Finding:
    """Return whether the cache of a run has the data sets that it learned from."""
    try:
        found = open_caches(cache)
    except DataError as error:
        return ("data", "warn", f"{error}; the run can be adapted from, but not resumed")
    tasks = (*note.get("train_tasks", ()), *note.get("validation_tasks", ()))
    wanted = {key.split("/", 1)[0] for key in tasks} | set(note.get("pretext", {}).get("sets", ()))
    if missing := sorted(wanted - found.keys()):
        return ("data", "warn", f"{cache} lacks {', '.join(missing)}, from which the run learned; it cannot be resumed as it was")
    known = {f"{name}/{organ}" for name, data in found.items() for organ in data.labels.values()}
    single = {key for key in tasks if key.split("/", 1)[1] not in ("union", "unlabelled") and "+" not in key.split("/", 1)[1]}
    single = {key for key in single if "," not in key}
    if gone := sorted(single - known):
        return ("data", "warn", f"{cache} does not have the organ of {', '.join(gone[:3])}; another data set has that name")
    return ("data", "ok", f"{cache} has the {len(wanted)} data set(s) of the run")


def _resumable(note: Mapping[str, Any], settings: Settings | None) -> Finding:
    done = note.get("iteration", 0)
    if settings is None:
        return ("resume", "warn", f"stopped at iteration {done}; without settings.json it cannot be resumed")
    if done >= settings.meta.iterations:
        return ("resume", "ok", f"finished: {done} of {settings.meta.iterations} iterations")
    wrong = [key for key in ("waited", "num_bad", "recent_bad") if key not in note]
    if wrong:
        return ("resume", "fail", f"last.json lacks {', '.join(wrong)}: the run cannot be resumed")
    return ("resume", "ok", f"can be resumed at iteration {done} of {settings.meta.iterations} (--resume)")


def check_folder_of_scans(root: Path, options: ReadOptions = STRICT, on_case: OnCase | None = None) -> Iterator[Finding]:
    """Yield the findings on a data set's folder; each scan is read and checked as ``prepare`` does."""
    try:
        dataset, bad = survey_dataset(root, options=options)
    except DataError as error:
        yield ("dataset.json", "fail", str(error))
        return
    organs = ", ".join(dataset.labels.values())
    yield ("dataset.json", "ok", f"{len(dataset.cases)} labelled case(s), {len(dataset.modality)} channel(s), organs: {organs}")
    problems = {(row.case or row.dataset): row.problem for row in bad}
    entries: list[dict[str, Any]] = []
    hashes: dict[str, str] = {}
    for done, case in enumerate(dataset.cases, 1):
        checked = check_case(case, dataset, options)
        if isinstance(checked, DataError):
            problems[case.name] = str(checked)
        else:
            entries.append(checked.entry)
            if (twin := hashes.setdefault(checked.entry["content_hash"], case.name)) != case.name:
                yield (case.name, "warn", f"has the same voxels as {twin}")
        if on_case:
            on_case(done, len(dataset.cases))
    meta = {"name": dataset.name, "modality": dataset.modality, "channel_names": dataset.channel_names}
    odd = odd_cases(meta, entries, options.any_intensities)
    problems |= {row.case or row.dataset: row.problem for row in odd}
    for name, misfit in intensity_misfits(meta, entries).items():
        if name not in problems:
            yield (name, "warn", misfit.text)
    yield from _bad_cases(problems, len(dataset.cases))
    held = {int(value) for entry in entries for value in entry["label_voxels"]}
    if empty := [name for value, name in dataset.labels.items() if value not in held]:
        yield ("organs", "fail", f"no case has a voxel of {', '.join(empty)}; correct dataset.json")
    elif dataset.labels:
        yield ("organs", "ok", "each organ has voxels")


def _bad_cases(problems: Mapping[str, str], num_cases: int) -> Iterator[Finding]:
    for name, problem in list(problems.items())[:_MOST_LINES]:
        yield (name, "fail", problem)
    if len(problems) > _MOST_LINES:
        yield ("cases", "fail", f"{len(problems) - _MOST_LINES} more case(s) are bad")
    if not num_cases:
        yield ("cases", "fail", "there is no labelled case")
    elif not problems:
        yield ("cases", "ok", f"all {num_cases} are in order")


def check_cache_file(path: Path, on_case: OnCase | None = None) -> Iterator[Finding]:
    """Yield the findings on a prepared data set: every voxel is read, and compared with what the file says about it."""
    try:
        data = open_cache(path)
        yield (path.name, "ok", f"{len(data.cases)} case(s) of {data.name}, organs: {', '.join(data.labels.values()) or 'none'}")
        file: Any = data._file()
        stored = {kind: set(file.get(kind, ())) for kind in ("images", "labels")}
    except (UserError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        told = str(error) if isinstance(error, UserError) else f"{path}: damaged cache file ({error}); prepare it again"
        yield (path.name, "fail", told)
        return
    names = [case.name for case in data.cases]
    problems: dict[str, str] = {}
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems[name] = "listed twice; delete the file and prepare again"
    for kind, listed in stored.items():
        if extra := sorted(listed - set(names)):
            problems[extra[0]] = f"the file has {kind} of {len(extra)} case(s) that it does not list; delete it and prepare again"
    counts: dict[int, int] = {}
    for done, case in enumerate(data.cases, 1):
        try:
            if problem := _case_problem(data, case, case.name in stored["labels"], counts):
                problems[case.name] = f"{problem}; delete {path.name} and prepare again"
        except (UserError, OSError, RuntimeError) as error:
            problems[case.name] = " ".join(str(error).split())
        if on_case:
            on_case(done, len(data.cases))
    data.close()
    yield from _bad_cases(problems, len(data.cases))
    if stored["labels"] and not problems:
        absent = [name for value, name in data.labels.items() if not counts.get(value)]
        state: State = "warn" if absent else "ok"
        yield ("organs", state, f"no case has a voxel of {', '.join(absent)}" if absent else "each organ has voxels, as counted")


def _case_problem(data: CachedDataset, case: CachedCase, labelled: bool, counts: dict[int, int]) -> str:
    """Return what the file says wrongly about a case, or an empty string; adds the voxels of its labels to ``counts``."""
    image = data.image(case.name)
    if image.shape != (case.num_channels, *case.shape):
        return f"the image has shape {image.shape}, listed is {(case.num_channels, *case.shape)}"
    if not np.isfinite(image).all():
        return "the image has values that are not finite"
    if content_hash(image) != case.content_hash:
        return "the image differs from its content hash"
    if not np.allclose(np.linalg.norm(case.affine[:3, :3], axis=0), case.spacing, rtol=1e-5) or min(case.spacing) <= 0:
        return f"the affine gives other voxel sizes than the listed {tuple(round(size, 4) for size in case.spacing)} mm"
    if content_box(image) != [list(pair) for pair in case.content_box]:
        return "the content box is not that of the image"
    if not labelled:
        return "the label is missing, but organs are counted in it" if case.label_voxels else ""
    label = data.label(case.name)
    if label.shape != case.shape:
        return f"the label has shape {label.shape}, the image {case.shape}"
    values, found = np.unique(label, return_counts=True)
    held = {int(value): int(count) for value, count in zip(values, found, strict=True) if value}
    held.pop(data.ignore or 0, None)
    if unknown := sorted(set(held) - set(data.labels)):
        return f"the label has values {unknown[:5]} that are no organs"
    if held != case.label_voxels:
        return f"the label has {held} voxels by value, listed are {case.label_voxels}"
    for value, count in held.items():
        counts[value] = counts.get(value, 0) + count
    return ""


def _json(path: Path) -> tuple[Any, str]:
    """Return the JSON object of a file, and what is wrong with it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, f"{path.name} is missing; restore it"
    except (OSError, ValueError) as error:
        return {}, f"{path.name} is damaged ({' '.join(str(error).split())[:120]}); restore it"
    return (found, "") if isinstance(found, dict) else ({}, f"{path.name}: found {type(found).__name__}, expected an object")


def _by(sizes: Any) -> str:
    return " x ".join(str(size) for size in sizes)
