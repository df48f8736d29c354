"""The machine's processor name, cores, free memory and processes, using only the standard library."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from functools import lru_cache
from pathlib import Path


def cpu_model() -> str:
    """Return the model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def free_memory_bytes() -> int | None:
    """Return the memory available without swapping, within the control group's limit, or None if unknown."""
    available = None
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                available = int(line.split()[1]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            left = int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()) + _file_pages()
            available = left if available is None else min(available, left)
    except (OSError, ValueError):
        pass
    return available


def _file_pages() -> int:
    """Return the bytes of the control group's file pages that the kernel can reclaim at any time."""
    for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines():
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0


def machine_tag() -> str:
    """Return six characters that this boot of this machine shares with no other, so that process numbers can be compared.

    Containers with process numbers of their own get a tag of their own. Without ``/proc`` it is made from the host's name.
    """
    return hashlib.sha256(f"{boot_id() or platform.node()} {pid_namespace()}".encode()).hexdigest()[:6]


@lru_cache
def boot_id() -> str:
    """Return the kernel's random name for this boot; empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@lru_cache
def pid_namespace() -> str:
    """Return the name of the set of process numbers that this process lives in; empty if unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def process_start(pid: int) -> str:
    """Return when process ``pid`` started, in ticks since the boot; empty if it does not run or the time is unknown.

    A process that was killed, but not yet collected by its parent, does not run.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def is_running(pid: int) -> bool:
    """Return whether process ``pid`` of this machine runs."""
    if Path("/proc/self/stat").exists():
        return bool(process_start(pid))
    if os.name == "nt":  # signal 0 would be Ctrl-C there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


@lru_cache
def keep_freed_memory() -> bool:
    """Return whether this process keeps memory that it frees, up to 2 GiB, instead of returning it to the kernel: only with glibc.

    Every step allocates the same large arrays. By default glibc returns each of them to the kernel, which must clear its pages
    before the next step may use them. That takes a fifth of a training step on a CPU. Results and peak memory stay the same.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        change = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mmap_threshold, trim_threshold = -3, -1  # numbers of malloc.h
    return bool(change(mmap_threshold, 256 * 2**20)) and bool(change(trim_threshold, 2**31 - 1))
