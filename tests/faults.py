"""Faults at any call that changes the disk: an error as of a full disk, or the end of the process."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

#: calls that change the disk and may find it full
_WRITES = (
    (os, "replace"),
    (os, "fsync"),
    (os, "link"),
    (os, "mkdir"),
    (os, "posix_fallocate"),
    (tempfile, "mkstemp"),
    (tempfile, "mkdtemp"),
    (shutil, "copyfile"),
    (Path, "write_bytes"),
)
#: calls that a killed process does not make either
_REMOVALS = ((os, "unlink"), (os, "rmdir"))


class Killed(BaseException):
    """Stands in for SIGKILL: nothing on the disk changes after it."""


@contextmanager
def failing(number: int, kill: bool = False) -> Iterator[list[int]]:
    """Let the call ``number`` (from 1) that changes the disk fail within the block; yield the number of calls so far.

    It raises OSError for a full disk, also the calls after it, until the block ends. With ``kill`` it raises Killed, and so does
    every later call, removals of temporary files as well. A call that writes bytes writes half of them first.
    """
    calls = [0]

    def watched(real: Callable[..., Any], removes: bool) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if not removes or kill:
                calls[0] += 1
            if calls[0] >= number and (kill or not removes):
                if real is write and calls[0] == number:
                    write(given[0], given[1][: len(given[1]) // 2])
                raise Killed if kill else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(given[0]) if given else None)
            return real(*given, **named)

        return call

    write = Path.write_bytes
    with ExitStack() as patches:
        for place, name in (*_WRITES, *_REMOVALS):
            real = getattr(place, name)
            patches.enter_context(mock.patch.object(place, name, watched(real, (place, name) in _REMOVALS)))
        yield calls
