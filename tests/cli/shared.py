"""What the tests of the commands share: snapshots of folders, and a full disk."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., str]


MAKE_CALLS = ("fsync", "posix_fallocate")


def snapshot(folder: Path) -> dict[str, str]:
    """Return the files below ``folder`` with the hashes of their contents, and hidden folders (such as drafts)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name.startswith("."):
            found[str(path)] = "folder"
    return found


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in MAKE_CALLS:
        monkeypatch.setattr(os, name, full)
