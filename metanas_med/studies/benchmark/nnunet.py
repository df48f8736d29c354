"""nnU-Net (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z) through its own commands; the extra ``peers`` installs it.

The support scans become a raw data set; planning, preprocessing, training and inference are nnU-Net's own. Only the numbers
of epochs and of iterations an epoch change, so that the complete learning-rate schedule fits the given time. Fold ``all``,
3d_fullres. On a CPU nnU-Net uses all cores, whatever the number of workers.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from ...data.cached import CachedDataset
from ...errors import UserError
from ...files import write_json
from ...ignored import IGNORED
from ...tasks.organ import OrganTask, organ_map

TRAINER = "nnUNetTrainerTimed"
#: training iterations per validation iteration: nnU-Net's own ratio (250 to 50 an epoch)
_TRAIN = 5
#: seconds after which a command counts as hanging; training gets its own time in addition
_TIMEOUT = 3600.0
_MOST_EPOCHS = 1000
_NAME, _NUMBER = "Dataset001_Support", "1"


@dataclass(frozen=True)
class NnunetResult:
    """Label maps (X, Y, Z) by case in canonical axes; seconds and number of training iterations."""

    labels: dict[str, np.ndarray]
    seconds: float
    iterations: int


def has_nnunet() -> bool:
    """Return whether nnU-Net is installed in this environment."""
    return importlib.util.find_spec("nnunetv2") is not None


def schedule(seconds: float, unit_seconds: float) -> tuple[int, int, int]:
    """Return epochs, and training and validation iterations an epoch, that fill ``seconds``.

    ``unit_seconds`` is the time of five training iterations and one validation iteration. The learning rate falls once an
    epoch, so there are as many epochs as nnU-Net has by default, if each gets at least one unit; longer times make the epochs
    longer.
    """
    units = seconds / unit_seconds
    validate = max(1, math.ceil(units / _MOST_EPOCHS))
    epochs = max(1, int(units / validate))
    return epochs, max(1, int(_TRAIN * units / epochs)), validate


def fit_nnunet(
    dataset: CachedDataset,
    task: OrganTask,
    support: Sequence[str],
    query: Sequence[str],
    seconds: float,
    folder: Path,
    device: str,
) -> NnunetResult:
    """Return nnU-Net's label maps of ``query`` after training on ``support`` for ``seconds``, planning not included.

    ``folder`` gets its files. Raises UserError where nnU-Net is missing or one of its commands fails.
    """
    if not has_nnunet():
        raise UserError('nnU-Net is not installed. Install the extra: pip install "metanas-med[peers]"')
    write_raw(dataset, task, support, query, folder)
    places = {f"nnUNet_{part}": str(folder / part) for part in ("raw", "preprocessed", "results")}
    fixed = {"nnUNet_extTrainer": str(Path(__file__).parent / "nnunet_trainer"), "nnUNet_compile": "f", "nnUNet_n_proc_DA": "1"}
    environment = {**os.environ, **places, **fixed}
    _call(["nnUNetv2_plan_and_preprocess", "-d", _NUMBER, "-c", "3d_fullres", "-np", "1", "-npfp", "1"], environment)
    _train(environment, device, (2, _TRAIN, 1), _TIMEOUT)
    unit = _epoch_seconds(folder)[-1]  # the first epoch also warms up
    counts = schedule(seconds, unit)
    _train(environment, device, counts, 2 * seconds + _TIMEOUT)
    taken = _epoch_seconds(folder)
    out = folder / "predictions"
    chosen = ["-f", "all", "-c", "3d_fullres", "-tr", TRAINER, "-device", device, "-npp", "1", "-nps", "1"]
    _call(["nnUNetv2_predict", "-d", _NUMBER, "-i", str(folder / "query"), "-o", str(out), *chosen], environment)
    labels = {name: _read_labels(out / f"{_file(number)}.nii.gz") for number, name in enumerate(query)}
    return NnunetResult(labels, float(sum(taken)), counts[0] * counts[1])


def write_raw(dataset: CachedDataset, task: OrganTask, support: Sequence[str], query: Sequence[str], folder: Path) -> None:
    """Write the support with its organ maps, and the query images alone, in nnU-Net's format: NIfTI in canonical axes."""
    raw = folder / "raw" / _NAME
    cases = {case.name: case for case in dataset.cases}
    for names, images in ((support, raw / "imagesTr"), (query, folder / "query")):
        images.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            for channel in range(cases[name].num_channels):
                scan = nib.Nifti1Image(np.asarray(dataset.channel(name, channel), dtype=np.float32), cases[name].affine)
                nib.save(scan, images / f"{_file(number)}_{channel:04d}.nii.gz")
    (raw / "labelsTr").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(support):
        organs = organ_map(dataset, task, name)
        organs = np.where(organs == IGNORED, task.num_organs + 1, organs).astype(np.uint8)
        nib.save(nib.Nifti1Image(organs, cases[name].affine), raw / "labelsTr" / f"{_file(number)}.nii.gz")
    ignored = {} if dataset.ignore is None else {"ignore": task.num_organs + 1}  # nnU-Net's is the highest value
    kinds = dataset.modality if len(dataset.modality) > 1 else dataset.modality * cases[support[0]].num_channels
    write_json(
        raw / "dataset.json",
        {
            # nnU-Net normalises a channel called CT by the foreground of all scans, every other channel scan by scan
            "channel_names": {str(c): "CT" if kind == "CT" else f"{kind}{c}" for c, kind in enumerate(kinds)},
            "labels": {"background": 0, **{f"organ{k}": k for k in range(1, len(task.names) + 1)}, **ignored},
            "numTraining": len(support),
            "file_ending": ".nii.gz",
        },
    )


def _file(number: int) -> str:
    return f"case_{number:03d}"


def _read_labels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).astype(np.uint8)  # type: ignore[attr-defined]


def _train(environment: Mapping[str, str], device: str, counts: tuple[int, int, int], timeout: float) -> None:
    names = ("EPOCHS", "ITERATIONS", "VAL_ITERATIONS")
    own = {f"METANAS_MED_{name}": str(value) for name, value in zip(names, counts, strict=True)}
    _call(["nnUNetv2_train", _NUMBER, "3d_fullres", "all", "-tr", TRAINER, "-device", device], {**environment, **own}, timeout)


def _epoch_seconds(folder: Path) -> list[float]:
    """Return the seconds of each epoch of the latest training from nnU-Net's log."""
    logs = sorted((folder / "results").rglob("training_log_*.txt"), key=lambda p: p.stat().st_mtime_ns)
    return [float(found) for found in re.findall(r"Epoch time: ([0-9.]+) s", logs[-1].read_text())]


def _call(command: list[str], environment: Mapping[str, str], timeout: float = _TIMEOUT) -> None:
    installed = Path(sys.executable).parent / command[0]
    start = time.monotonic()
    whole = [str(installed) if installed.exists() else command[0], *command[1:]]
    # nnU-Net's helper processes must not outlive this one, however it ends; setpriv sets the kernel's parent-death signal
    guard = shutil.which("setpriv")
    whole = [guard, "--pdeathsig", "KILL", *whole] if guard else whole
    try:
        run = subprocess.run(whole, env=dict(environment), capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]} did not end within {timeout:.0f} s") from error
    if run.returncode:
        last = " ".join((run.stderr or run.stdout).strip().splitlines()[-3:])
        raise UserError(f"{command[0]} failed after {time.monotonic() - start:.0f} s: {last[-400:]}")
