"""Import of learn2learn on first use: it is optional, its import takes seconds, and gym prints a notice."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import sys
import warnings
from typing import Any

from .errors import UserError

log = logging.getLogger(__name__)

#: Other packages that importing learn2learn requires.
PARTS = ("gym", "torchvision", "requests", "tqdm")


def missing_parts() -> list[str]:
    """Return the missing packages among learn2learn and its requirements, without importing them."""
    return [name for name in ("learn2learn", *PARTS) if importlib.util.find_spec(name) is None]


def has_learn2learn() -> bool:
    """Return whether learn2learn and its requirements are installed."""
    return not missing_parts()


def import_learn2learn() -> Any:
    """Return the module learn2learn; gym's notice goes to the log. Raises UserError, with advice, if it is missing."""
    if "learn2learn" in sys.modules:
        return sys.modules["learn2learn"]
    if not has_learn2learn():
        raise UserError(
            "learn2learn is not installed. It provides MAML and the Taskset view; everything else works without it. "
            "Run scripts/setup.sh in a checkout (a C compiler is needed), or:\n"
            'pip install --use-pep517 --no-deps --config-settings="--build-option=build_ext" learn2learn==0.2.0 '
            "&& pip install gym==0.26.2 torchvision requests tqdm"
        )
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module("learn2learn")
    except ImportError as error:
        raise UserError(f"learn2learn is installed but cannot be imported ({error}). Run scripts/setup.sh again.") from error
    if said.getvalue():
        log.debug("while importing learn2learn: %s", said.getvalue().strip())
    return module
