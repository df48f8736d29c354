"""The origin of a measured row, fresh processes to measure in, and the memory of a process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from ...engine.checkpoint import code_revision
from ...launch import build_launcher
from ...learner import Runtime
from ...machine import cpu_model

T = TypeVar("T")
GIB = 2.0**30


def provenance(seed: int, runtime: Runtime) -> dict[str, Any]:
    """Return the columns of every row: code revision, seed, device, threads, torch."""
    cuda = runtime.device.type == "cuda"
    return {
        "code": code_revision(),
        "seed": seed,
        "device": torch.cuda.get_device_name(runtime.device) if cuda else f"cpu ({cpu_model()})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def synchronize(runtime: Runtime) -> None:
    """Wait until the device has finished its work."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)


def rss_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the peak resident memory of this process since its start, or since ``reset_peak``, in bytes."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Reset the peak memory, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _status(key: str) -> int:
    """Return a field of /proc/self/status in bytes; on systems other than Linux the peak of getrusage."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def in_fresh_process(job: Callable[..., T], *arguments: Any) -> T:
    """Return ``job(*arguments)``, computed in a new process, so that its peak memory is the job's own."""
    (found,) = build_launcher("processes").map(_with_threads, [(torch.get_num_threads(), job, arguments)])
    return found


def _with_threads(given: tuple[int, Callable[..., T], tuple[Any, ...]]) -> T:
    threads, job, arguments = given
    torch.set_num_threads(threads)
    return job(*arguments)


def measured(job: Callable[..., Any], *arguments: Any) -> tuple[float, int, Any]:
    """Return seconds, peak memory of the process in bytes, and the result of ``job(*arguments)``."""
    reset_peak()
    start = time.perf_counter()
    found = job(*arguments)
    return time.perf_counter() - start, peak_bytes(), found
