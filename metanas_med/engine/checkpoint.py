"""Checkpoints of meta-training and adapted models: safetensors and JSON files, written atomically and verified on reading."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .. import __version__
from ..errors import CheckpointError
from ..files import atomic_folder, sha256_file, write_bytes, write_json
from ..parse import Unreadable, brief, no_file, read_json

#: Format version; increase it when the meaning of a saved state changes.
FORMAT = 1


@lru_cache
def code_revision() -> str:
    """Return the package version, in a checkout with the git revision; cached at the first call.

    A trailing ``+`` means uncommitted changes.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return __version__
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10"], cwd=root, capture_output=True, text=True
        )
    except OSError:
        return __version__
    return f"{__version__}-{run.stdout.strip()}" if run.returncode == 0 else __version__


def save_state(folder: Path, name: str, kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """Write ``name.safetensors`` and ``name.json`` into ``folder``; return the SHA-256 of the tensors' file.

    Both files are complete in a draft folder before either is moved, so a full disk leaves the older state usable. The JSON
    holds the hash of the tensors' file, so a mismatched pair is detected. The JSON is moved last; until then the older
    tensors are kept aside. A run that is killed between the two moves leaves either the old state or the new one.
    """
    data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    path, aside = folder / f"{name}.safetensors", _aside(folder, name)
    with atomic_folder(folder, last=f"{name}.json") as draft:
        write_bytes(draft / path.name, data)
        write_json(draft / f"{name}.json", {"format": FORMAT, "kind": kind, "code": code_revision(), "sha256": digest, **meta})
        # no state yet, or a damaged one; an unwritable folder fails below
        with suppress(OSError, ValueError, AttributeError):
            if json.loads((folder / f"{name}.json").read_text()).get("sha256") == sha256_file(path):
                os.replace(path, aside)
    aside.unlink(missing_ok=True)
    return digest


def _aside(folder: Path, name: str) -> Path:
    """Return the path of a state's older tensors while new ones replace them."""
    return folder / f".{name}.safetensors"


def load_state(folder: Path, name: str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON of a state that ``save_state`` wrote.

    Raises CheckpointError if a file is missing, damaged, of another version or of another kind.
    """
    path, note = folder / f"{name}.safetensors", folder / f"{name}.json"
    if no_file(note) == "no such file":
        raise CheckpointError(f"{folder} holds no {name}.json; expected a {kind} folder. Check the path.")
    try:
        meta = read_json(note, finite=True)
    except PermissionError as error:
        raise CheckpointError(f"cannot read {note}; change its permissions") from error
    except (Unreadable, OSError) as error:
        raise CheckpointError(f"{note} is damaged ({error}); restore it or create the {kind} again") from error
    if not isinstance(meta, dict) or meta.get("kind") != kind:
        raise CheckpointError(
            f"{note} is not a {kind}; found {brief(meta.get('kind') if isinstance(meta, dict) else type(meta).__name__)}"
        )
    if type(meta.get("format")) is not int or meta["format"] != FORMAT:
        raise CheckpointError(
            f"{note} has format {brief(meta.get('format'))}, this version reads {FORMAT}. "
            f"Use the version that wrote it ({brief(meta.get('code')).strip(chr(39))})."
        )
    there = [p for p in (path, _aside(folder, name)) if not no_file(p)]
    if not there and (reason := no_file(path)) != "no such file":
        raise CheckpointError(f"{path}: {reason}; restore it or create the {kind} again")
    if not there:
        raise CheckpointError(f"{path} is missing; restore it or create the {kind} again")
    found = next((p for p in there if sha256_file(p) == meta.get("sha256")), None)
    if found is None:
        raise CheckpointError(
            f"{path} is damaged: its content differs from what was written. Restore it or create the {kind} again."
        )
    try:
        tensors = load(found.read_bytes())
    # besides its own errors, safetensors passes on those of torch for types and shapes that cannot be
    except (SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged ({' '.join(str(error).split())[:200]})") from error
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f"{path}: tensor {brief(key)} holds NaN or infinity; restore it or create the {kind} again")
    return tensors, meta


def group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, with the prefix removed."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def join(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return one flat dict with ``group.name`` keys."""
    return {f"{label}.{name}": value for label, tensors in groups.items() for name, value in tensors.items()}


def buffers_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return a module's persistent buffers by name (the calibrated gains)."""
    named = dict(module.named_buffers())
    return {name: value.detach().clone() for name, value in module.state_dict().items() if name in named}
