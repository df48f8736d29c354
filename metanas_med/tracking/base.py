"""The protocol of all trackers, and a tracker with a mirror whose failures do not affect the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Records a run's settings, curves, figures and results. Names never contain a patient's file name."""

    def config(self, values: Mapping[str, Any]) -> None:
        """Store the run's settings."""
        ...

    def metrics(self, counter: str, value: int, row: Mapping[str, float]) -> None:
        """Add one row of numbers at ``counter`` (a name such as "iteration") = ``value``."""
        ...

    def rewind(self, counter: str, value: int) -> None:
        """Delete the rows with ``counter`` >= ``value``, which a resumed run writes again."""
        ...

    def figure(self, name: str, path: Path) -> None:
        """Store a PNG or SVG under ``name``."""
        ...

    def artifact(self, name: str, path: Path, kind: str) -> None:
        """Register a checkpoint file or folder under ``name``; ``kind`` is a word such as "checkpoint"."""
        ...

    def summary(self, values: Mapping[str, Any]) -> None:
        """Merge ``values`` into the run's final results."""
        ...

    def close(self) -> None:
        """Finish all files. A second call has no effect."""
        ...


class Trackers:
    """A ``Tracker`` that writes to ``local`` first and then to a mirror, which is closed after its first failure."""

    def __init__(self, local: Tracker, make_mirror: Callable[[], Tracker]) -> None:
        self.local = local
        self.mirror: Tracker | None = None
        try:
            self.mirror = make_mirror()
        except Exception as error:
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        # the class alone does not help to fix the cause; the first line of the message does
        reason = (str(error).strip().splitlines() or [""])[0]
        log.warning("tracking mirror stopped (%s: %s); the run continues, local files are complete", type(error).__name__, reason)
        mirror, self.mirror = self.mirror, None
        if mirror is not None:
            try:
                mirror.close()
            except Exception:
                log.debug("closing the mirror failed, too", exc_info=True)

    def _both(self, method: str, *arguments: Any) -> None:
        getattr(self.local, method)(*arguments)
        if self.mirror is not None:
            try:
                getattr(self.mirror, method)(*arguments)
            except Exception as error:
                self._drop(error)

    def config(self, values: Mapping[str, Any]) -> None:
        self._both("config", values)

    def metrics(self, counter: str, value: int, row: Mapping[str, float]) -> None:
        self._both("metrics", counter, value, row)

    def rewind(self, counter: str, value: int) -> None:
        self._both("rewind", counter, value)

    def figure(self, name: str, path: Path) -> None:
        self._both("figure", name, path)

    def artifact(self, name: str, path: Path, kind: str) -> None:
        self._both("artifact", name, path, kind)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._both("summary", values)

    def close(self) -> None:
        self._both("close")


def plain(value: Any) -> Any:
    """Return ``value`` as JSON types: tuples become lists, paths become strings, NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # scalars and arrays of numpy and torch, without importing either
        return plain(value.tolist())
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
