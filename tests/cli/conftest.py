"""Fixtures for the tests of the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from metanas_med.cli import main
from metanas_med.engine.settings import Settings

from .shared import Refused, snapshot


@pytest.fixture(autouse=True)
def wide_and_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tables are not wrapped, and the user's own cache is not touched."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path / "home"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """``refused(arguments...)`` runs a command that must fail cleanly and returns its table and error in one line."""

    def run(*arguments: Any) -> str:
        before = snapshot(tmp_path)
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert code == 2 and snapshot(tmp_path) == before
        assert err.startswith("error: ") and 1 <= len(err.strip().splitlines()) <= 2
        return " ".join((out + err).split())

    return run


@pytest.fixture
def config(tmp_path: Path, tiny_settings: Callable[..., Settings]) -> Path:
    """A configuration file with tiny networks and few steps."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(**{"meta.iterations": 1}).model_dump(mode="json")))
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_run: Path, phantom_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the left organ of a pair, from two scans."""
    from metanas_med.engine.adapt import AdaptSettings, adapt

    out = tmp_path_factory.mktemp("models") / "left"
    pair = phantom_cache / "Phantom06_Pair.h5"
    adapt(tiny_run, pair, out, AdaptSettings(organ="left", shots=2, evaluate=0, device="cpu", precision="float32"))
    return out


@pytest.fixture
def pair(phantom_cache: Path) -> Path:
    return phantom_cache / "Phantom06_Pair.h5"
