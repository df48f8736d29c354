"""Fixtures that several rooms' tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

PHANTOMS = ("Phantom01_Bean", "Phantom05_ShellCore", "Phantom06_Pair")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the checkout; tests that ask for it are skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data sets at ../shared/data")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small phantom data sets: five people each of a bean, a layered organ with three labels and a pair."""
    from metanas_med.data.phantom import make_phantoms

    made, root = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("phantoms")
    make_phantoms(made, seed=0, num_cases=6, scale=0.35)
    for folder in sorted(made.iterdir()):
        if folder.name in PHANTOMS:
            folder.rename(root / folder.name)
    return root


@pytest.fixture(scope="session")
def phantom_cache(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of ``phantoms``."""
    from metanas_med.data.cache import prepare

    cache = tmp_path_factory.mktemp("cache")
    prepare(sorted(phantoms.iterdir()), cache)
    return cache
