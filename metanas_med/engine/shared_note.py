"""The files of an adaptation that are shared name no patient: identifiers in ``adaptation.json``, names in a local file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.cached import CachedDataset
from ..files import write_json
from ..privacy import CaseIds, public_name

#: keys of a note without names of cases, or with identifiers already; a case may be called like a setting or an organ
_SAFE = frozenset(
    {
        "code",
        "meta_checkpoint",
        "start_has_seen",
        "organ",
        "organs",
        "settings",
        "plan",
        "report",
        "model_sha256",
        "pretexts",
        "minutes",
    }
)


def shared_name(data: CachedDataset) -> str:
    """Return the name of a data set that models hold: its own if a shipped card has it, else an identifier of its scans."""
    return public_name(data.name, [case.content_hash for case in data.cases])


def write_note(folder: Path, note: Mapping[str, Any], data: CachedDataset) -> None:
    """Write ``adaptation.json``, in which identifiers replace the names of cases, and ``cases.private.json`` with the names.

    ``note["unlabelled"]`` brings the hashes of its own scans (``content``), because names may repeat between data sets.
    """
    ids, more = CaseIds(), CaseIds()
    for case in data.cases:
        ids.add(case.name, case.content_hash)
    shared = {key: value if key in _SAFE else ids.shared(value) for key, value in note.items()}
    private: dict[str, Any] = {"dataset": data.name}
    if label_free := dict(note.get("unlabelled", {})):
        for name, content in label_free.pop("content", {}).items():
            more.add(name, content)
        private |= {"unlabelled": label_free["data"], "unlabelled_cases": more.names()}
        label_free["data"] = label_free.pop("data_id", "")
        shared["unlabelled"] = {key: value if key in _SAFE else more.shared(value) for key, value in label_free.items()}
    write_json(folder / "adaptation.json", shared)
    ids.write(folder, **private)
