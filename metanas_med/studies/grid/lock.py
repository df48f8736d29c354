"""A lock that reserves the folder of a grid for one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ConfigError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder``, the ``out`` of a grid, for this process within the block; ConfigError where another process holds it.

    Removes drafts of cells that killed processes left behind. The lock makes sure that no process is writing one.
    """
    try:
        import fcntl
    except ImportError:  # this system has no such locks
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another run is at work in {folder}. Wait for its end, or choose another folder.") from error
        for draft in (folder / "cells").glob(".*"):
            draft.unlink(missing_ok=True)
        yield
