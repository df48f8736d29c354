"""User errors: each message says what was found, what was expected and how to fix it.

Every error of this module ends a command with exit code 2 and its message, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


class UserError(Exception):
    """A mistake that the user can fix; the message is one or two lines."""

    #: all problems, to be shown before the message, if the message names only the first
    table: Sequence[Mapping[str, str]] = ()


class DataError(UserError):
    """A data set, scan or label map that cannot be used as it is."""


class ConfigError(UserError):
    """An unknown key, or a value out of its bounds."""


class CheckpointError(UserError):
    """A checkpoint or model folder that is damaged, of another version or of another kind."""


class StorageError(UserError):
    """A file could not be written: no space, no permission."""


class InUseError(UserError):
    """Another job works in the folder."""


class DivergedError(UserError):
    """Too many tasks had a non-finite loss."""


def suggest(name: str, known: Iterable[str], name_all: bool = False) -> str:
    """Return ``"did you mean 'x'?"``, or the list of known names if none is similar; both with ``name_all``."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    parts = [f"did you mean {near[0]!r}?"] if near else []
    if not near or name_all:
        parts.append(f"known: {', '.join(names) or 'none'}")
    return " ".join(parts)
