"""Unlabelled scans for the jobs: folders prepared without reading labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..data.cache import Prepared, prepare, without_files
from ..data.cached import CachedDataset, open_cache
from ..data.options import STRICT, ReadOptions
from ..files import default_cache


def prepare_scans(
    datasets: Sequence[Path | str], cache: Path | str | None = None, options: ReadOptions = STRICT
) -> tuple[Path, list[Prepared]]:
    """Return the folder with the images of ``datasets`` alone, and one row per data set; no label is read.

    The folder is in ``cache`` (default: the user's cache). Its name depends on ``datasets``, so the rest of the cache stays as
    it is.
    """
    datasets = without_files(datasets)
    roots = sorted({os.path.abspath(d) for d in datasets})  # links are not resolved: a data set has the name of its link
    base = Path(cache).expanduser() if cache else default_cache()
    folder = base / f"scans-{hashlib.sha256(json.dumps(roots).encode()).hexdigest()[:12]}"
    return folder, prepare(list(datasets), folder, labels=False, options=options)


def open_scans(path: Path | str, cache: Path | str | None = None, options: ReadOptions = STRICT) -> CachedDataset:
    """Return the scans of a folder, prepared without labels, or of a cache file."""
    path = Path(path)
    if path.suffix == ".h5":
        return open_cache(path)
    folder, _ = prepare_scans([path], cache, options)
    return open_cache(folder / f"{Path(os.path.abspath(path)).name}.h5")
