"""Signals that end a job: the first raises ``Stopped`` where it can be handled, a second Ctrl-C leaves at once.

All files are written atomically, so leaving at once damages nothing.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

#: seconds in which a repeated signal is the same: a terminal and a wrapper such as ``timeout`` both deliver a Ctrl-C
_SAME_SECONDS = 0.5
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class _Stopping:
    """Handles the signals of one job."""

    def __init__(self) -> None:
        self.number = 0  #: of the first signal
        self.depth = 0  #: of blocks that must not be interrupted
        self.waits = False  #: a signal arrived in such a block
        self.again = False  #: an exception was lost, and the signal is raised once more
        self.at = 0.0

    def handle(self, number: int, frame: Any) -> None:
        if self.number and not self.again:
            if number == signal.SIGINT and time.monotonic() - self.at > _SAME_SECONDS:
                os.write(2, b"stopped at once\n")
                os._exit(128 + number)
            return
        if not self.number:
            self.number, self.at = number, time.monotonic()
        self.again = False
        if self.depth:
            self.waits = True
            return
        raise Stopped(self.number)

    def lost(self, unraisable: Any, before: Any) -> None:
        """Raise a signal slightly later if it arrived where Python cannot raise it; otherwise it would only be printed.

        Such places are callbacks of weak references: h5py has one for each of its objects, and it runs first after a long write.
        """
        if not (isinstance(unraisable.exc_type, type) and issubclass(unraisable.exc_type, KeyboardInterrupt)):
            before(unraisable)
            return
        self.again = bool(self.number)
        timer = threading.Timer(0.05, _thread.interrupt_main)  # delayed: during this call it would be lost again
        timer.daemon = True  # it must not keep a finished command alive
        timer.start()


_active: list[_Stopping] = []


@contextmanager
def stops(names: Sequence[str] = _NAMES) -> Iterator[None]:
    """Raise ``Stopped`` within the block for the first of the signals ``names``; a later Ctrl-C ends the process at once.

    Signals that this process ignores, as under ``nohup``, stay ignored. Only the main thread can handle signals; in another
    one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    here = _Stopping()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    hook = sys.unraisablehook
    try:
        _active.append(here)
        sys.unraisablehook = lambda unraisable: here.lost(unraisable, hook)
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):  # None: not set by Python
                signal.signal(number, here.handle)
        yield
    finally:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, handler)
        sys.unraisablehook = hook
        _active.remove(here)


def is_asked_to_stop() -> bool:
    """Return whether a signal waits for the end of an ``unstopped`` block: long work there may end early."""
    return bool(_active) and _active[-1].waits


@contextmanager
def unstopped() -> Iterator[None]:
    """Let a signal wait until the end of the block, which is short: it saves what would be lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _active:  # a program that uses the library: Ctrl-C alone
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        with stops(("SIGINT",)), unstopped():
            yield
        return
    here = _active[-1]
    here.depth += 1
    try:
        yield
    finally:
        here.depth -= 1
    if here.waits and not here.depth:
        here.waits = False
        raise Stopped(here.number)
