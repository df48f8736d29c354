"""Starts by name: those that the package ships, and how a run becomes one of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CheckpointError, ConfigError, suggest
from ..files import atomic_folder, write_text
from ..parse import no_file
from .checkpoint import HALF, load_state, save_state

if TYPE_CHECKING:
    from ..space.network import SegmentationNet

log = logging.getLogger(__name__)

#: the folder of the shipped starts, each the folder of a run
STARTS = Path(__file__).parents[1] / "starts"
#: the start that users adapt from if they have no run of their own
DEFAULT = "default"
#: the most bytes of a shipped start's state and notes together
MOST_BYTES = 3 * 2**20
#: groups of tensors that a start keeps. A run that continues from it starts with new optimizer moments: they are half of the bytes
_KEPT = ("weights.", "alphas.", "buffers.", "meta.")
#: keys of a state's JSON that describe its files; they are written again
_OF_FILES = ("format", "kind", "code", "sha256", "note_sha256")


def shipped_starts() -> dict[str, Path]:
    """Return the folders of the starts in this installation by name, intact or not."""
    if not STARTS.is_dir():
        return {}
    found = sorted(path for path in STARTS.iterdir() if not path.name.startswith((".", "_")) and path.is_dir())
    return {path.name: path for path in found if any((path / f"last.{end}").exists() for end in ("json", "safetensors"))}


def find_start(name: Path | str) -> Path:
    """Return the folder of a start: the shipped one of that name, else ``name`` itself, the folder of a run.

    A shipped name always means the shipped start: a warning says how to name a folder that is called like it. A ``Path`` to an
    existing folder is that folder. Raises CheckpointError, with the shipped names, if there is neither a start nor a folder.
    """
    shipped, text = shipped_starts(), str(name)
    named = text in shipped or text == DEFAULT
    if named and (isinstance(name, str) or not os.path.isdir(name)):
        if os.path.isdir(text):
            log.warning("%s: the shipped start is used, not the folder of that name. For the folder give ./%s", text, text)
        if text not in shipped:
            raise CheckpointError(
                f"this installation has no start {text!r}; it has: {_names(shipped)}. Give one of them, or the folder of a run."
            )
        return shipped[text]
    reason = no_file(name)
    if not reason:
        raise CheckpointError(f"{name} is a file; expected a shipped start ({_names(shipped)}) or the folder of a run")
    if reason == "no such file":
        raise CheckpointError(
            f"no shipped start and no folder is called {text!r}; {suggest(text, shipped, name_all=True)}. "
            "Check the path, or make a run: metanas-med meta-train --out FOLDER."
        )
    return Path(name)


def refuse_start(model: Path | str) -> None:
    """Raise CheckpointError if ``model`` is the name of a shipped start, and no folder: it was not adapted yet."""
    if str(model) in shipped_starts() and not os.path.isdir(model):
        raise CheckpointError(
            f"{model} is a shipped start, expected a model. Fit it to an organ first: metanas-med adapt {model} DATASET --out MODEL"
        )


def _names(shipped: Mapping[str, Path]) -> str:
    return ", ".join(shipped) or "none"


@dataclass(frozen=True)
class Published:
    """A state that was made ready to be shipped."""

    sha256: str  #: of ``last.safetensors``
    num_bytes: int  #: of ``last.safetensors`` and ``last.json``
    code: str  #: the revision of the code that trained it
    note: Mapping[str, Any]  #: what its JSON says of the training


def publish(
    run: Path,
    folder: Path,
    cache: str = "cache",
    files: Callable[[Published], Mapping[str, str]] | None = None,
    half: bool = False,
) -> Published:
    """Return what was written to ``folder``: the last state of ``run`` without the optimizer's moments, and text ``files``.

    ``cache`` is the place of prepared scans in the state's settings. ``files`` returns texts by file name. ``half`` keeps the
    weights as float16, which takes half of the bytes; they are read as float32. What ``folder`` held before is replaced. Raises
    ConfigError, and writes nothing, if the state is larger than a shipped start may be.
    """
    tensors, note = load_state(run, "last", "meta-state")
    code = note["code"]
    kept = {key: value for key, value in note.items() if key not in _OF_FILES}
    kept["settings"] = {**kept["settings"], "cache": cache}
    tensors = {name: value for name, value in tensors.items() if name.startswith(_KEPT)}
    if half:
        tensors, kept["stored"] = {name: _halved(name, value) for name, value in tensors.items()}, HALF
    with atomic_folder(folder, last=("last.safetensors", "last.json")) as draft:
        digest = save_state(draft, "last", "meta-state", tensors, kept)
        size = sum(path.stat().st_size for path in draft.iterdir())
        if size > MOST_BYTES:
            raise too_large(size)
        found = Published(digest, size, code, kept)
        for name, text in (files(found) if files else {}).items():
            write_text(draft / name, text)
        written = {path.name for path in draft.iterdir()}
    for path in folder.iterdir():
        if path.name not in written and path.is_file():
            path.unlink()
    return found


def _halved(name: str, value: torch.Tensor) -> torch.Tensor:
    """Return weights as float16, if all their values are in its range; other groups are small and stay as they are."""
    if not name.startswith("weights.") or value.dtype != torch.float32:
        return value
    half = value.half()
    return half if bool(half.isfinite().all()) else value


def state_bytes(net: SegmentationNet, half: bool = False) -> int:
    """Return about how many bytes the published state of a network takes."""
    kept = {name: value for name, value in net.state_dict().items() if not name.startswith("task.")}
    weights = net.weights()
    return sum(v.numel() * (2 if half and name in weights else v.element_size()) for name, v in kept.items())


def too_large(num_bytes: int) -> ConfigError:
    """Return the error for a state that takes more bytes than a shipped start may."""
    return ConfigError(
        f"the state takes {num_bytes / 2**20:.2f} MiB, a shipped start at most {MOST_BYTES / 2**20:.2f} MiB. "
        "Train a smaller network: lower space.base_width, space.max_width or space.nodes."
    )
