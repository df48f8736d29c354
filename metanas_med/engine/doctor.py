"""Checks of this machine: versions, devices, memory, cache, tracking and optional parts, without running anything."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..errors import StorageError
from ..files import CACHE_FILES, check_folder, default_cache
from ..l2l import missing_parts
from ..machine import cpu_model, free_memory_bytes, num_cores

State = Literal["ok", "warn", "fail"]
Finding = tuple[str, State, str]

#: Minimum versions, as in pyproject.toml (a test compares the two).
BOUNDS = {"torch": "2.10", "monai": "1.6", "nibabel": "5.2", "h5py": "3.10", "numpy": "2.0", "safetensors": "0.5"}
_MEMORY_WARN, _MEMORY_FAIL, _DISK_WARN, _DISK_FAIL = 4 * 2**30, 2**30, 5 * 2**30, 2**29


def diagnose(cache: Path | None = None) -> list[Finding]:
    """Return rows of (check, state, detail); a "fail" means that the main job cannot run here."""
    found = _cache(Path(cache)) if cache is not None else _default_cache()
    return [*_versions(), *_devices(), *_room(cache), found, _wandb(), _learn2learn(), _compiler()]


def _release(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.partition("+")[0].split("."):
        digits = part[: next((i for i, c in enumerate(part) if not c.isdigit()), len(part))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _versions() -> Iterator[Finding]:
    python = platform.python_version()
    yield ("python", "ok" if sys.version_info >= (3, 11) else "fail", f"{python} (3.11 or later is required)")
    for name, bound in BOUNDS.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield (name, "fail", f"not installed ({bound} or later is required)")
            continue
        enough = _release(found) >= _release(bound)
        yield (name, "ok" if enough else "fail", found if enough else f"{found} is older than {bound}")


def _devices() -> Iterator[Finding]:
    cores = num_cores()
    yield ("cpu", "ok", f"{cpu_model()}, {cores} usable cores")
    try:
        import torch
    except Exception as error:  # a broken installation may raise OSError and other errors
        yield ("torch import", "fail", " ".join(str(error).split())[:200])
        return
    threads = torch.get_num_threads()
    state: State = "ok" if threads <= cores else "warn"
    advice = "" if state == "ok" else f", more than the {cores} cores: set OMP_NUM_THREADS"
    yield ("threads", state, f"torch uses {threads}{advice}")
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        from ..learner.runtime import cpu_bfloat16

        units = cpu_bfloat16()
        precision = f"bfloat16 (supported by {units})" if units else "float32"
        yield ("cuda", "ok", f"no GPU is visible (torch is {built}); runs use the CPU, with convolutions in {precision}")
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        detail = f"{about.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, bf16 {'yes' if bf16 else 'no'}"
        yield (f"cuda:{index}", "ok" if bf16 else "warn", detail)


def _room(cache: Path | None) -> Iterator[Finding]:
    memory = free_memory_bytes()
    if memory is not None:
        yield ("memory", _enough(memory, _MEMORY_WARN, _MEMORY_FAIL), f"{memory / 2**30:.1f} GiB free")
    place = Path(cache or ".").absolute()
    while not place.exists():
        place = place.parent
    disk = shutil.disk_usage(place).free
    yield ("disk", _enough(disk, _DISK_WARN, _DISK_FAIL), f"{disk / 2**30:.1f} GiB free at {place}")


def _enough(found: int, warn: int, fail: int) -> State:
    return "fail" if found < fail else "warn" if found < warn else "ok"


def _default_cache() -> Finding:
    """Return the state of the user's cache, which stores data sets that are given as folders."""
    try:
        cache = default_cache()
        check_folder(cache)
    except RuntimeError as error:  # no home folder
        return ("cache", "warn", f"{error}; give --cache, or set METANAS_MED_CACHE to a folder")
    except StorageError:
        return ("cache", "warn", f"cannot write to {cache}; give --cache, or set METANAS_MED_CACHE to another folder")
    files = sorted(cache.glob(f"*/{CACHE_FILES}"))
    size = sum(file.stat().st_size for file in files)
    return ("cache", "ok", f"{cache}: {len(files)} data sets, {size / 2**30:.2f} GiB, used when no --cache is given")


def _cache(cache: Path) -> Finding:
    if not cache.exists():
        return ("cache", "warn", f"{cache} does not exist yet; `metanas-med prepare DATASET --cache {cache}` creates it")
    if not cache.is_dir():
        return ("cache", "fail", f"{cache} is not a folder")
    try:
        files = sorted(cache.glob(CACHE_FILES))
        size = sum(file.stat().st_size for file in files)
    except OSError as error:
        return ("cache", "fail", f"cannot read {cache}: {error.strerror}")
    damaged = [file.name for file in files if not _opens(file)]
    if damaged:
        return ("cache", "fail", f"cannot open {', '.join(damaged)}; remove and prepare again")
    if not files:
        return ("cache", "warn", f"{cache} holds no data set; `metanas-med prepare DATASET --cache {cache}` adds one")
    state: State = "ok" if os.access(cache, os.W_OK) else "warn"
    names = ", ".join(file.stem for file in files[:12]) + (", ..." if len(files) > 12 else "")
    note = "" if state == "ok" else "; it is not writable"
    return ("cache", state, f"{cache}: {len(files)} data sets, {size / 2**30:.2f} GiB ({names}){note}")


def _opens(file: Path) -> bool:
    import h5py

    try:
        with h5py.File(file, "r", locking=False):
            return True
    except OSError:
        return False


def _wandb() -> Finding:
    try:
        version = importlib.metadata.version("wandb")
    except importlib.metadata.PackageNotFoundError:
        return ("wandb", "warn", "not installed; local files are still written")
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "disabled"):
        return ("wandb", "ok", f"{version}, WANDB_MODE={mode}")
    if os.environ.get("WANDB_API_KEY"):
        return ("wandb", "ok", f"{version}, key in the environment")
    return ("wandb", "ok", f"{version}, no key in the environment: `--track.wandb true` records offline")


def _learn2learn() -> Finding:
    # checked without an import, which takes 5 s and prints a notice from gym
    if missing := missing_parts():
        text = f"not installed: {', '.join(missing)}; scripts/setup.sh installs it. Only the MAML family needs it"
        return ("learn2learn", "warn", text)
    return ("learn2learn", "ok", importlib.metadata.version("learn2learn"))


def _compiler() -> Finding:
    names = [name for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name]
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        return ("C compiler", "warn", "none found; only the installation of learn2learn needs it")
    return ("C compiler", "ok", found)
