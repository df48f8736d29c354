"""A lock that reserves the folder of a grid for one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...ownership import owned


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder``, the ``out`` of a grid, for this process within the block; InUseError where another process holds it.

    Drafts of cells that killed processes left behind are removed.
    """
    with owned(folder, advice="Wait for its end, or choose another folder."):
        for draft in (folder / "cells").glob(".*"):
            if not draft.name.startswith(".tmp-"):  # of older versions, which did not name the writer
                draft.unlink(missing_ok=True)
        yield
