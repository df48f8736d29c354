"""The data sets of the grid: prepared ones, and phantoms that the study makes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from ...data.cache import prepare
from ...data.cached import CachedDataset, open_caches
from ...data.phantom import make_phantoms
from ...errors import ConfigError, suggest
from ..benchmark.guards import check_free
from .settings import ChooseSettings


def make_missing_phantoms(settings: ChooseSettings) -> None:
    """Make and prepare the phantoms that ``out``/phantoms lacks; ConfigError for an unknown organ."""
    cache = _phantoms_of(settings)
    missing = [name for name in settings.phantoms if not (cache / f"{name}.h5").exists()]
    if not missing:
        return
    settings.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-phantoms-", dir=settings.folder) as made:
        folders = {folder.name: folder for folder in make_phantoms(Path(made), num_cases=settings.phantom_cases)}
        for name in missing:
            if name not in folders:
                raise ConfigError(f"phantoms: no organ is called {name!r}; {suggest(name, folders)}")
        for name in set(folders) - set(missing):
            shutil.rmtree(folders[name])
        prepare([folders[name] for name in missing], cache)


@lru_cache(maxsize=1)
def datasets_of(cache: str, phantoms: str) -> Mapping[str, CachedDataset]:
    """Return the prepared data sets by name, which this process keeps open; ``phantoms``: the folder of made ones, or empty."""
    return {**open_caches(Path(cache)), **(open_caches(Path(phantoms)) if phantoms else {})}


def open_datasets(settings: ChooseSettings) -> Mapping[str, CachedDataset]:
    """Return the data sets of the grid, and the others of its cache, by name.

    Raises ConfigError for a name that the cache lacks, and for a data set of, or related to, a test group of the benchmark: what
    the grid finds becomes a default.
    """
    found = datasets_of(settings.cache, str(_phantoms_of(settings)) if settings.phantoms else "")
    if missing := [name for name in settings.names if name not in found]:
        raise ConfigError(f"datasets: {settings.cache} holds no {', '.join(missing)}. Prepare them first.")
    for name in settings.names:
        check_free(found[name])
    return found


def _phantoms_of(settings: ChooseSettings) -> Path:
    """Return the cache of the phantoms, one for each number of scans."""
    return settings.folder / "phantoms" / f"{settings.phantom_cases}"
