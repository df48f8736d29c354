"""The card of the shipped start: what it learned from, how it was made, what it is for."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...data.cached import CachedDataset
from ...data.dataset import as_text, read_dataset_json
from ...engine.starts import DEFAULT, Published
from ...report.tables import markdown_table
from .licences import licences_of

#: packages whose versions may change the result
_LIBRARIES = ("torch", "monai", "numpy", "scipy", "safetensors")
#: settings that say which share of the episodes is made up
_SHARES = (("tasks", "synthetic"), ("tasks", "recast"), ("pretext", "mix"))
INTENDED_USE = (
    "A start for metanas-med adapt: it is fitted to an organ from a few annotated scans of that organ.",
    "Research on few-shot segmentation of medical images.",
)
LIMITS = (
    "It segments nothing before adapt has fitted it to an organ.",
    "It is not a medical device and was not tested for clinical use.",
    "It has learned from the scans of the data sets above: scores on them are not a test of a new organ.",
    "Check the scores that adapt prints on your own scans. The gain on organs and modalities unlike those above may be nothing.",
    "The state holds no scan. Give credit to the references above.",
)


def card_of(
    found: Published, folders: Mapping[str, Path], datasets: Mapping[str, CachedDataset], distribution: str, command: str
) -> dict[str, Any]:
    """Return the card of a published state as JSON values. It names data sets, but no path and no case.

    ``folders`` and ``datasets`` are those of the data sets that it learned from, by name.
    """
    note, settings = found.note, found.note["settings"]
    return {
        "name": DEFAULT,
        "learned_from": [_entry(folders[name], datasets[name]) for name in sorted(folders)],
        "held_out": list(note["held_out"]),
        "distribution": distribution,
        "synthetic_share": {
            f"{section}.{key}": settings[section][key] for section, key in _SHARES if key in settings.get(section, {})
        },
        **({"phases": settings["phases"]} if settings.get("phases") else {}),
        "command": command,
        "seed": settings["seed"],
        "iterations": note["iteration"],
        "seconds": round(float(note["seconds"])),
        "code": found.code,
        "libraries": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        "sha256": found.sha256,
        "bytes": found.num_bytes,
        "intended_use": list(INTENDED_USE),
        "limits": list(LIMITS),
    }


def _entry(folder: Path, data: CachedDataset) -> dict[str, Any]:
    tree = read_dataset_json(folder)
    given = tree.get("modality", {})
    return {
        "dataset": data.name,
        "cases": len(data.cases),
        "modality": [as_text(value) for value in (given.values() if isinstance(given, Mapping) else [given])],
        "organs": list(data.labels.values()),
        "licence": "; ".join(dict.fromkeys(as_text(text) for text in licences_of(folder))),
        "reference": as_text(tree.get("reference", "")),
    }


def readme(card: Mapping[str, Any]) -> str:
    """Return the README of the start's folder, in Markdown."""
    columns = {"dataset": "data set", "cases": "cases", "modality": "modality", "organs": "organs", "licence": "licence"}
    rows = [{key: _joined(entry[key]) for key in columns} for entry in card["learned_from"]]
    references = sorted({f"- {entry['dataset']}: {entry['reference']}" for entry in card["learned_from"] if entry["reference"]})
    lines = [
        f"# The start `{card['name']}`\n",
        "`metanas-med adapt default DATASET --out MODEL` starts from this state. `card.json` holds the same as data.\n",
        f"It learned from {len(rows)} data sets for {card['iterations']} iterations ({card['seconds']} s), seed {card['seed']}.",
        f"Held out: {_joined(card['held_out']) or 'none'}. Code: {card['code']}. SHA-256 of `last.safetensors`:\n",
        f"```\n{card['sha256']}\n```\n",
        "Command, which also writes this file:\n",
        f"```\n{card['command']}\n```\n",
        markdown_table(rows, columns),
        "References:\n",
        *references,
        "\n## Limits\n",
        *(f"- {text}" for text in card["limits"]),
    ]
    return "\n".join(lines) + "\n"


def _joined(value: Any) -> Any:
    return ", ".join(str(item) for item in value) if isinstance(value, Sequence) and not isinstance(value, str) else value
