"""What there is to adapt from and to predict with: shipped starts, and local runs and models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import CheckpointError, DataError, UserError
from ..parse import Unreadable, no_file, read_json
from ..space import SpaceSettings, read_space_settings
from .checkpoint import PREVIOUS, load_state
from .model_check import WRONG_VALUES
from .older import settings_of_today
from .starts import find_start, shipped_starts

Kind = Literal["start", "model"]
#: levels of folders below a given one that are searched
_DEPTH = 2
#: what a folder of each kind holds, also if it is damaged
_SIGNS: dict[Kind, tuple[str, ...]] = {
    "model": ("model.json", "model.safetensors"),
    "start": ("last.json", "last.safetensors", f"{PREVIOUS}.json", f"{PREVIOUS}.safetensors"),
}


@dataclass(frozen=True)
class Entry:
    """A start or a model. What could not be read is empty; then ``problem`` says why."""

    name: str  #: of a shipped start, else its folder
    kind: Kind
    shipped: bool = False
    space: str = ""
    base_width: int | None = None  #: None: the space has none
    num_values: int = 0  #: of its network
    num_bytes: int = 0  #: of its tensors' file
    datasets: int | None = None  #: number of data sets that a start learned from
    organs: tuple[str, ...] = ()  #: of a model
    scans: int | None = None  #: number of scans that a model was fitted to; None: unknown
    iterations: int | None = None  #: of a start
    code: str = ""  #: the revision that wrote it
    sha256: str = ""
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return json.loads(json.dumps(asdict(self)))


def list_models(folders: Sequence[Path | str] | None = None) -> list[Entry]:
    """Return the shipped starts, then the runs and models in ``folders`` and two levels below.

    Without ``folders``: those in ``runs``, and in the working directory's own folders. Links to folders and hidden folders are
    passed over. A damaged entry has its ``problem``. Files, hashes and settings are checked, not the network: ``doctor`` does
    that. Raises DataError for a folder that does not exist.
    """
    entries = [read_entry(name, path, "start", shipped=True) for name, path in shipped_starts().items()]
    if folders is None:
        places = [*_walk(Path("."), 1), *_walk(Path("runs"), _DEPTH)]
    else:
        for folder in folders:
            if not os.path.isdir(folder):
                raise DataError(f"{folder} {'is a file' if os.path.exists(folder) else 'does not exist'}; expected a folder")
        places = [place for folder in folders for place in _walk(Path(folder), _DEPTH)]
    seen: set[str] = set()
    for place in places:
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        entries += [read_entry(str(place), place, kind) for kind in _kinds(place)]
    return entries


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield ``folder`` and the folders up to ``depth`` levels below, in order, without hidden ones and links."""
    yield folder
    if not depth:
        return
    try:
        with os.scandir(folder) as found:
            names = sorted(e.name for e in found if not e.name.startswith(".") and e.is_dir(follow_symlinks=False))
    except OSError:  # no permission, or gone in the meantime
        return
    for name in names:
        yield from _walk(folder / name, depth - 1)


def _kinds(folder: Path) -> list[Kind]:
    return [kind for kind, signs in _SIGNS.items() if any(os.path.lexists(folder / sign) for sign in signs)]


def read_entry(name: str, folder: Path, kind: Kind, shipped: bool = False) -> Entry:
    """Return the entry of a folder; one that cannot be used has a ``problem``."""
    stem = "last" if kind == "start" else "model"
    try:
        tensors, note = load_state(folder, stem, "meta-state" if kind == "start" else "model")
        size = os.path.getsize(folder / f"{stem}.safetensors")
        common = {"code": str(note.get("code", "")), "sha256": str(note["sha256"]), "num_bytes": size, "shipped": shipped}
        about = _about_start(tensors, note) if kind == "start" else _about_model(tensors, note)
        return Entry(name, kind, **common, **about)
    except (*WRONG_VALUES, OSError, UserError) as error:
        return Entry(name, kind, shipped, problem=" ".join(str(error).split())[:300] or type(error).__name__)


def _about_start(tensors: Mapping[str, torch.Tensor], note: Mapping[str, Any]) -> dict[str, Any]:
    learned = {key.split("/", 1)[0] for key in note["train_tasks"]} | set(note.get("pretext", {}).get("sets", ()))
    return {
        **_network(read_space_settings(settings_of_today(note["settings"])["space"])),
        "num_values": _count(tensors, ("weights.", "alphas.")),
        "datasets": len(learned),
        "iterations": int(note["iteration"]),
    }


def _about_model(tensors: Mapping[str, torch.Tensor], note: Mapping[str, Any]) -> dict[str, Any]:
    support = note.get("support_content", ())
    return {
        **_network(read_space_settings(note["space"])),
        "num_values": _count(tensors, ("",)),
        "organs": tuple(str(organ["name"]) for organ in note["organs"]),
        "scans": len(support) or None,
    }


def _network(space: SpaceSettings) -> dict[str, Any]:
    return {"space": space.name, "base_width": getattr(space, "base_width", None)}


def _count(tensors: Mapping[str, torch.Tensor], prefixes: tuple[str, ...]) -> int:
    return sum(value.numel() for name, value in tensors.items() if name.startswith(prefixes))


def read_card(name: Path | str) -> dict[str, Any]:
    """Return the card of a start, given by name or as the folder of a run: its ``card.json``, else what its state says.

    Raises CheckpointError if the state is damaged, or if the card is damaged or describes another state.
    """
    folder = find_start(name)
    note = load_state(folder, "last", "meta-state")[1]
    path = folder / "card.json"
    if no_file(path) == "no such file":
        return _card_of_state(str(name), note, os.path.getsize(folder / "last.safetensors"))
    try:
        card = read_json(path)
    except (Unreadable, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it") from error
    if not isinstance(card, dict) or card.get("sha256") != note["sha256"]:
        raise CheckpointError(f"{path} does not describe {folder / 'last.safetensors'}: the hashes differ. Restore both.")
    return card


def _card_of_state(name: str, note: Mapping[str, Any], num_bytes: int) -> dict[str, Any]:
    """Return what a state without a card says of itself."""
    try:
        settings = note["settings"]
        sets = {key.split("/", 1)[0]: None for key in note["train_tasks"]}
        organs = {s: [key.split("/", 1)[1] for key in note["train_tasks"] if key.startswith(f"{s}/")] for s in sets}
        return {
            "name": name,
            "learned_from": [{"dataset": s, "organs": organs[s]} for s in sets],
            "held_out": list(note["held_out"]),
            "seed": settings["seed"],
            "iterations": note["iteration"],
            "seconds": round(float(note["seconds"])),
            "code": note["code"],
            "sha256": note["sha256"],
            "bytes": num_bytes,
        }
    except WRONG_VALUES as error:
        raise CheckpointError(f"{name}: its last.json cannot be used ({error}); restore it") from error


def names(values: Iterable[Any], most: int = 4) -> str:
    """Return ``values`` in a row, at most so many."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
