"""The door of studies: a folder of this room whose ``__init__.py`` sets ``STUDY = Study(...)``."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Study:
    """One study as the command line needs it. Heavy imports belong inside ``run``: ``--help`` imports every study's entry.

    ``run`` takes the parsed arguments and the settings as they were typed (``["--section.key", "value", ...]``). The names
    ``run``, ``settings`` and ``verbose`` of the parsed arguments belong to the command line: an option ``--run`` needs
    another ``dest``.
    """

    name: str  #: as in ``metanas-med study NAME``
    help: str  #: one line
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, list[str]], None]
    takes: str = ""  #: "module:Class" of the settings that it takes as ``--section.key value``, inside metanas_med


def find_studies() -> dict[str, Study]:
    """Return all studies by name. ValueError where two have one name."""
    from . import __path__ as folders

    found: dict[str, Study] = {}
    for module in pkgutil.iter_modules(folders):
        if not module.ispkg:
            continue
        study = getattr(importlib.import_module(f".{module.name}", __package__), "STUDY", None)
        if study is not None:
            if study.name in found:
                raise ValueError(f"two studies are called {study.name!r}")
            found[study.name] = study
    return found
