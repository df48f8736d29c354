"""What every row of a benchmark says of its origin, and measurements of a process's own memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..engine.checkpoint import code_revision
from ..learner import Runtime
from ..machine import cpu_model

T = TypeVar("T")
GIB = 2.0**30


def provenance(seed: int, runtime: Runtime) -> dict[str, Any]:
    """Return the columns that every row carries: code revision, seed, device, threads, torch."""
    cuda = runtime.device.type == "cuda"
    return {
        "code": code_revision(),
        "seed": seed,
        "device": torch.cuda.get_device_name(runtime.device) if cuda else f"cpu ({cpu_model()})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def synchronize(runtime: Runtime) -> None:
    """Wait until the device has done what it was given."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)


def rss_bytes() -> int:
    """Return the resident memory of this process."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the largest resident memory of this process since its start, or since ``reset_peak``."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Forget the peak so far, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _status(key: str) -> int:
    """Return a field of /proc/self/status in bytes; elsewhere than on Linux the peak that getrusage knows."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def in_fresh_process(job: Callable[..., T], *arguments: Any) -> T:
    """Return ``job(*arguments)`` computed by a process that has done nothing before: its peak memory is the job's own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_with_threads, torch.get_num_threads(), job, arguments).result()


def _with_threads(threads: int, job: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    torch.set_num_threads(threads)
    return job(*arguments)
