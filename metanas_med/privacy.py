"""What may leave this machine: case identifiers without names, data set names without folders, and texts without paths.

A case is identified by a hash of its voxels. The identifier is the same wherever the scan is, and it says nothing about its
name. A hash of a name would: names can be tried one by one. The names stay in ``cases.private.json``, next to what is shared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from .files import write_json
from .resources import resource_dir

#: the local file with the names of the cases; it is not uploaded or exported, and safe to delete
PRIVATE_FILE = "cases.private.json"
_ABOUT = "Names of cases and data sets. Local: do not share this file. It is safe to delete; no command needs it."
#: a path, or the name of a file with a usual ending: it may name a patient, a user or a machine
_ENDINGS = (
    "nii|hdr|img|mgz|mgh|nrrd|nhdr|mha|mhd|dcm|dicom|ima|h5|hdf5|npy|npz|gz|xz|zip|tar|tgz|7z|json|jsonl|yaml|yml|csv|tsv|txt|log"
    "|xlsx?|pdf|html?|png|svg|jpe?g|tiff?|bmp|pt|pth|pkl|safetensors|py|sh"
)
_PATH = re.compile(rf"[/\\]|\.(?:{_ENDINGS})\b|^~|^[A-Za-z]:$", re.IGNORECASE)
#: settings whose value is a place on this machine, even without a slash
_PLACES = frozenset(
    {"cache", "root", "roots", "folder", "folders", "path", "paths", "out", "file", "files", "start", "run_folder"}
)
HIDDEN = "(path)"
#: digits of a scan's SHA-256 that identify it
HASH_DIGITS = 12


def case_id(content_hash: str) -> str:
    """Return the identifier of a case, such as ``case-3f2a9c1b04d7``: the first 12 digits of its voxels' SHA-256."""
    return f"case-{content_hash[:HASH_DIGITS]}"


def dataset_id(content_hashes: Iterable[str]) -> str:
    """Return the identifier of a data set, such as ``dataset-9c1b04d73f2a``: a hash of the hashes of its scans, in any order."""
    return f"dataset-{hashlib.sha256(' '.join(sorted(content_hashes)).encode()).hexdigest()[:12]}"


@lru_cache
def known_names() -> frozenset[str]:
    """Return the names of the public data sets that have a shipped card; only these names are shared as they are."""
    return frozenset(path.stem for path in resource_dir("tasks").glob("*.yaml"))


def public_name(name: str, content_hashes: Iterable[str]) -> str:
    """Return ``name`` if a shipped card has it, or if it is an identifier already; else the identifier of the data set."""
    known = name in known_names() or re.fullmatch(r"dataset-[0-9a-f]{12}", name)
    return name if known else dataset_id(content_hashes)


class CaseIds:
    """Identifiers of cases by name; a second scan with the same voxels gets ``-2``, and so on, so that rows stay distinct."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}

    def add(self, name: str, content_hash: str) -> str:
        """Return the identifier of the case ``name``."""
        if name not in self.ids:
            first, taken, number = case_id(content_hash), set(self.ids.values()), 1
            found = first
            while found in taken:
                number += 1
                found = f"{first}-{number}"
            self.ids[name] = found
        return self.ids[name]

    def shared(self, value: Any) -> Any:
        """Return ``value`` (as JSON) with the names of cases replaced, also inside texts."""
        return renamed(value, self.ids)

    def names(self) -> dict[str, str]:
        """Return the names by identifier."""
        return {identifier: name for name, identifier in self.ids.items()}

    def write(self, folder: Path, **more: Any) -> None:
        """Write the names by identifier to ``cases.private.json`` in ``folder``, with ``more`` values."""
        write_json(folder / PRIVATE_FILE, {"about": _ABOUT, **more, "cases": self.names()})


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return plain ``value`` with each name replaced: a whole text, a part between slashes, or a word of at least 4 letters."""
    if not names:
        return value
    if isinstance(value, Mapping):
        return {renamed(key, names): renamed(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [renamed(item, names) for item in value]
    if not isinstance(value, str):
        return value
    if value in names:
        return names[value]
    words = sorted((name for name in names if len(name) >= 4 and name in value), key=len, reverse=True)
    for name in words:
        value = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", names[name], value)
    return "/".join(names.get(part, part) for part in value.split("/"))


def redact(value: Any) -> Any:
    """Return plain ``value`` with every text that looks like a path or a file's name, and every place, replaced by ``(path)``."""
    if isinstance(value, dict):
        return {
            (HIDDEN if _PATH.search(key) else key): _hidden(item) if key in _PLACES else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return HIDDEN if isinstance(value, str) and _PATH.search(value) else value


def _hidden(value: Any) -> Any:
    """Return the value of a place with all its texts hidden."""
    if isinstance(value, str):
        return HIDDEN if value else value
    if isinstance(value, list | tuple):
        return [_hidden(item) for item in value]
    return redact(value)
