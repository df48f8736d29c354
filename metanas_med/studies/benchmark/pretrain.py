"""Meta-training for the benchmark: one folder for each (group, kind, seed); and starts from fresh weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...engine.meta_run import MetaRun
from ...engine.settings import Settings
from ...engine.state import build_network, load_meta_state, meta_state
from ...errors import DataError, StorageError
from ...files import write_text
from ...learner import choose_runtime
from ...space import genotype, genotype_multiply_adds, unet_of_cost
from ...space.settings import SpaceSettings
from ..grid.cases import open_run
from ..grid.training import DONE, train_to_the_end
from .methods import SEARCHES, pretraining_settings
from .settings import BenchmarkSettings

log = logging.getLogger(__name__)

#: the view on which the costs of two networks are compared
REFERENCE_VIEW, REFERENCE_STRIDES = (32, 32, 32), ((2, 2, 2),) * 8

Pretraining = tuple[str, str, int]

#: columns of ``meta.csv``; ``processor_seconds`` cover the last part alone where a run was ``resumed``
META_COLUMNS = ("held_out", "kind", "seed", "iterations", "seconds", "processor_seconds", "resumed", "code", "checkpoint")


def folder_of(settings: BenchmarkSettings, pretraining: Pretraining) -> Path:
    """Return the folder of a meta-training's state."""
    group, kind, seed = pretraining
    return Path(settings.out) / "meta" / f"{group}-{kind}-seed{seed}"


def is_done(settings: BenchmarkSettings, pretraining: Pretraining) -> bool:
    """Return whether a meta-training is complete."""
    return (folder_of(settings, pretraining) / DONE).exists()


def finished(settings: BenchmarkSettings, pretraining: Pretraining) -> MetaRun:
    """Return the state of a complete meta-training; DataError that says why for one that is not complete."""
    if not is_done(settings, pretraining):
        note = failure_of(settings, pretraining)
        why = note.read_text().strip() if note.exists() else "it is not complete"
        raise DataError(f"meta-training {folder_of(settings, pretraining).name}: {why}")
    return open_run(str(folder_of(settings, pretraining)))


def failure_of(settings: BenchmarkSettings, pretraining: Pretraining) -> Path:
    """Return the file that says why a meta-training failed."""
    return folder_of(settings, pretraining).with_suffix(".failed")


def pretrain(job: tuple[BenchmarkSettings, Pretraining]) -> None:
    """Meta-train one kind without one group, or resume it. Where it fails, write why, so that the other jobs go on."""
    settings, pretraining = job
    torch.set_num_threads(1)
    if is_done(settings, pretraining):
        return
    note = failure_of(settings, pretraining)
    try:
        _pretrain(settings, pretraining)
        note.unlink(missing_ok=True)
    except StorageError:
        raise
    except Exception as error:
        log.warning("%s failed", folder_of(settings, pretraining).name, exc_info=True)
        write_text(note, f"{type(error).__name__}: {error}\n")


def _pretrain(settings: BenchmarkSettings, pretraining: Pretraining) -> None:
    group, kind, seed = pretraining
    hold_out = next(g.hold_out for g in settings.groups if g.name == group)
    space = settings.run.space if kind in SEARCHES else fixed_space(settings, group)
    run = pretraining_settings(kind, settings.run, space, seed, hold_out)
    train_to_the_end(run, folder_of(settings, pretraining))


def training_rows(settings: BenchmarkSettings, pretrainings: Sequence[Pretraining]) -> list[dict[str, Any]]:
    """Return a row (``META_COLUMNS``) for each complete meta-training; values that an older version did not note are blank."""
    rows = []
    for pretraining in pretrainings:
        if is_done(settings, pretraining):
            folder = folder_of(settings, pretraining)
            note = json.loads((folder / DONE).read_text())
            last = json.loads((folder / "last.json").read_text()) if (folder / "last.json").exists() else {}
            note = {"iterations": last.get("iteration", ""), "checkpoint": last.get("sha256", "")[:16], **note}
            row = dict(zip(META_COLUMNS, pretraining, strict=False)) | {name: note.get(name, "") for name in META_COLUMNS[3:]}
            rows.append(row | {"seconds": round(note["seconds"], 1)})
    return rows


def found_genotype(run: MetaRun) -> dict:
    """Return the architecture that a meta-training found."""
    net = build_network(run.settings.space, run.settings.seed)
    load_meta_state(net, run.state, run.buffers)
    return genotype(net.body)


def fixed_space(settings: BenchmarkSettings, group: str) -> SpaceSettings:
    """Return the plain U-Net with as many multiply-adds as the architecture found without ``group`` (first seed)."""
    run = finished(settings, (group, "metanas", 0))
    strides = REFERENCE_STRIDES[: run.settings.space.levels - 1]
    target = genotype_multiply_adds(found_genotype(run), REFERENCE_VIEW, strides)
    return unet_of_cost(run.settings.space, target, REFERENCE_VIEW, strides)


def fresh_run(settings: Settings, space: SpaceSettings, held_out: tuple[str, ...], seed: int) -> MetaRun:
    """Return newly initialised weights as a meta-trained state."""
    own = settings.model_copy(update={"space": space, "seed": seed})
    state = meta_state(build_network(space, seed).to(choose_runtime(settings.device, settings.precision).device))
    return MetaRun(own, state, {}, f"fresh-{seed}", held_out, ())
