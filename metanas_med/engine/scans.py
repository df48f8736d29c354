"""Unlabelled scans for the jobs: folders prepared without a look at any label."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..data.cache import Prepared, prepare
from ..data.cached import CachedDataset, open_cache
from ..files import default_cache


def prepare_scans(datasets: Sequence[Path | str], cache: Path | str | None = None) -> tuple[Path, list[Prepared]]:
    """Return the folder that holds the images of ``datasets`` and nothing else, and a row a data set; no label is read.

    It lies in ``cache`` (the user's by default), under a name of its own for every set of data sets: labelled copies and other scans that the
    cache holds stay as they are.
    """
    roots = sorted({os.path.abspath(d) for d in datasets})  # links are not followed: a data set is called as its link is
    base = Path(cache).expanduser() if cache else default_cache()
    folder = base / f"scans-{hashlib.sha256(json.dumps(roots).encode()).hexdigest()[:12]}"
    return folder, prepare(list(datasets), folder, labels=False)


def open_scans(path: Path | str, cache: Path | str | None = None) -> CachedDataset:
    """Return the scans of a folder, prepared without labels, or of a cache file."""
    path = Path(path)
    if path.suffix == ".h5":
        return open_cache(path)
    folder, _ = prepare_scans([path], cache)
    return open_cache(folder / f"{Path(os.path.abspath(path)).name}.h5")
