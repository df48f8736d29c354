"""Checkpoints of meta-training and adapted models: safetensors and JSON files, written atomically and verified on reading."""

from __future__ import annotations

import hashlib
import json
import logging
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

log = logging.getLogger(__name__)

#: Format version; increase it when the meaning of a saved state changes.
FORMAT = 1
#: the value of ``stored`` in the note of a state whose weights are kept in half precision; they are read as float32
HALF = "float16"
#: the checkpoint of a meta-training that is kept before ``last``
PREVIOUS = "previous"


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


class DamagedError(CheckpointError):
    """A checkpoint whose files are missing or not those that were written."""


def save_state(folder: Path, name: str, kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], keep: str = "") -> str:
    """Write ``name.safetensors`` and ``name.json`` into ``folder``; return the SHA-256 of the tensors' file.

    All files are complete in a draft folder before one is moved, so a full disk leaves the older state usable. The JSON holds
    the hash of the tensors' file and its own, so a mismatched pair and a flipped bit are detected. The JSON is moved last. Until
    then the older tensors are kept under another name. A run that is killed between two moves leaves the old state or the
    new one. ``keep`` is the name under which the state before this one stays, if it is intact and has other tensors.
    """
    data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    path, aside = folder / f"{name}.safetensors", _aside(folder, name)
    # after each move every JSON finds its tensors, under one name or another
    order = [f"{keep}.json", f"{keep}.safetensors", path.name, f"{name}.json"]
    with atomic_folder(folder, order) as draft:
        write_bytes(draft / path.name, data)
        note = {"format": FORMAT, "kind": kind, "code": code_revision(), "sha256": digest, **meta}
        write_json(draft / f"{name}.json", note | {"note_sha256": _hash_of_note(note)})
        before, tensors_before = _intact(folder, name)
        if tensors_before and keep and before["sha256"] != digest:
            _copy(tensors_before, draft / f"{keep}.safetensors")
            _copy(folder / f"{name}.json", draft / f"{keep}.json")
        elif tensors_before == path:
            os.replace(path, aside)
    aside.unlink(missing_ok=True)
    return digest


def _intact(folder: Path, name: str) -> tuple[dict[str, Any], Path | None]:
    """Return the JSON of a complete and undamaged state and the file with its tensors; without one, an empty dict and None."""
    # no state yet, or a damaged one; an unwritable folder fails later
    with suppress(OSError, ValueError, AttributeError, KeyError):
        note = json.loads((folder / f"{name}.json").read_text())
        if _is_whole(note) and (found := _tensors_of(folder, name, note["sha256"])):
            return note, found
    return {}, None


def _is_whole(note: Mapping[str, Any]) -> bool:
    """Return whether a note is the one that was written; states of older versions have no hash of their note."""
    return note.get("note_sha256") in (None, _hash_of_note(note))


def _hash_of_note(note: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in note.items() if key != "note_sha256"}
    # through JSON, which makes lists of tuples and text of keys
    return hashlib.sha256(json.dumps(json.loads(json.dumps(rest)), sort_keys=True).encode()).hexdigest()


def _copy(source: Path, target: Path) -> None:
    """Copy a file that nobody changes in place; a second name for it where the file system has links."""
    try:
        os.link(source, target)
    except OSError:
        write_bytes(target, source.read_bytes())


def _aside(folder: Path, name: str) -> Path:
    """Return the path of a state's older tensors while new ones replace them."""
    return folder / f".{name}.safetensors"


def _tensors_of(folder: Path, name: str, digest: Any) -> Path | None:
    """Return the file with the tensors of hash ``digest``, which a kill may have left under another state's name."""
    names = (f"{name}.safetensors", _aside(folder, name).name, "last.safetensors", f"{PREVIOUS}.safetensors")
    places = dict.fromkeys(folder / each for each in names)
    return next((path for path in places if not no_file(path) and sha256_file(path) == digest), None)


def load_state(folder: Path, name: str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON of a state that ``save_state`` wrote.

    Raises CheckpointError if it is of another version or of another kind, DamagedError if a file is missing or damaged.
    """
    path, note = folder / f"{name}.safetensors", folder / f"{name}.json"
    if no_file(note) == "no such file":
        raise DamagedError(_absent(folder, name, kind))
    try:
        meta = read_json(note, finite=True)
    except PermissionError as error:
        raise CheckpointError(f"cannot read {note}; change its permissions") from error
    except (Unreadable, OSError) as error:
        raise DamagedError(f"{note} is damaged ({error}); restore it or create the {kind} again") from error
    if isinstance(meta, dict) and not _is_whole(meta):
        raise DamagedError(
            f"{note} is damaged: its content differs from what was written. Restore it or create the {kind} again. "
            "If you changed it on purpose, remove its note_sha256."
        )
    if not isinstance(meta, dict) or meta.get("kind") != kind:
        raise CheckpointError(
            f"{note} is not a {kind}; found {brief(meta.get('kind') if isinstance(meta, dict) else type(meta).__name__)}"
        )
    if type(meta.get("format")) is not int or meta["format"] != FORMAT:
        raise CheckpointError(
            f"{note} has format {brief(meta.get('format'))}, this version reads {FORMAT}. "
            f"Use the version that wrote it ({brief(meta.get('code')).strip(chr(39))})."
        )
    found = _tensors_of(folder, name, meta.get("sha256"))
    if found is None and (reason := no_file(path)):
        told = "is missing" if reason == "no such file" else f"cannot be used: {reason}"
        raise DamagedError(f"{path} {told}; restore it or create the {kind} again")
    if found is None:
        raise DamagedError(
            f"{path} is damaged: its content differs from what was written. Restore it or create the {kind} again."
        )
    try:
        tensors = load(found.read_bytes())
    # besides its own errors, safetensors passes on those of torch for types and shapes that cannot be
    except (SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise DamagedError(f"{path} is damaged ({' '.join(str(error).split())[:200]})") from error
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise DamagedError(f"{path}: tensor {brief(key)} holds NaN or infinity; restore it or create the {kind} again")
    if meta.get("stored") == HALF:
        tensors = {key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()}
    return tensors, meta


def _absent(folder: Path, name: str, kind: str) -> str:
    """Return what to do where ``folder`` has no ``name.json``: it may hold another kind, or another checkpoint."""
    if kind == "meta-state" and not no_file(folder / "model.json"):
        return f"{folder} holds a model, which adapt made; expected a start: the folder of a meta-training or a search"
    if kind == "model" and not no_file(folder / "last.json"):
        return (
            f"{folder} holds a start, expected a model. Fit it to an organ first: metanas-med adapt {folder} DATASET --out MODEL"
        )
    if name == "best" and not no_file(folder / "last.json"):
        return f"{folder} holds no best.json: no validation chose a state. Use the last checkpoint"
    return f"{folder} holds no {name}.json; expected a {kind} folder. Check the path."


def load_newest(folder: Path, name: str, kind: str, before: str = PREVIOUS) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state ``name``, or the one ``before`` it after a warning if a file of ``name`` is damaged or missing.

    Raises the error of ``name`` if neither can be used.
    """
    try:
        return load_state(folder, name, kind)
    except DamagedError as error:
        try:
            tensors, meta = load_state(folder, before, kind)
        except CheckpointError:
            raise error from None
        told = str(error).split("; ")[0].split(". ")[0].split(" (")[0]
        after = _iteration_of(folder, name)
        log.warning("%s. Going on from the checkpoint before it: iteration %s, not %s", told, meta.get("iteration"), after)
        return tensors, meta


def _iteration_of(folder: Path, name: str) -> Any:
    """Return the iteration that a damaged state names, or "an unknown one"."""
    with suppress(OSError, ValueError, AttributeError):
        note = json.loads((folder / f"{name}.json").read_text())
        if _is_whole(note):
            return note["iteration"]
    return "an unknown one"


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
