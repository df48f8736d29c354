"""Faults of model.json and last.json: values of other types, names that are code or paths, networks of any size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .checkpoint_faults import NAMES, fault_of, note_of, right
from .corpus import Fault

CODE = "__import__('os').system('touch executed')"
ODD: tuple[tuple[str, Any], ...] = (
    ("null", None),
    ("a number", 5),
    ("minus one", -1),
    ("text", "text"),
    ("code", CODE),
    ("a path", "../../x"),
    ("an empty list", []),
    ("a list of lists", [[1, [2]]]),
    ("an object", {"a": {"b": 1}}),
    ("true", True),
    ("10**300", 10**300),
    ("10**4000", 10**4000),
)
#: values that do no harm to anything that is read back
FREE = {
    "dataset": ("text", "code", "a path"),
    "code": None,
    "support_content": ("an empty list",),
    "support_spacing": ("an empty list",),
}
FREE |= {"iteration": None, "best": None, "held_out": ("an empty list",), "sha256": ()}


def _put(path: str, value: Any) -> Any:
    def change(note: dict[str, Any]) -> None:
        *above, last = path.split(".")
        place: Any = note
        for part in above:
            place = place[int(part) if isinstance(place, list) else part]
        place[int(last) if isinstance(place, list) else last] = value

    return note_of(change)


def _texts() -> Iterator[Fault]:
    for kind in NAMES:
        for name, text in {
            "nothing": b"",
            "text": b"text",
            "a list": b"[]",
            "null": b"null",
            "NaN": b"NaN",
            "100000 open lists": b"[" * 100_000,
            "UTF-16": "{}".encode("utf-16"),
            "NUL bytes": bytes(50),
            "a number of 5000 digits": b"9" * 5000,
            "random bytes": bytes(range(128, 256)),
            "20 MiB": b'{"a": "' + b"x" * (20 * 2**20) + b'"}',
        }.items():
            yield fault_of(f"{name} instead of it", kind, note_of(lambda note, text=text: text))
        yield fault_of("half of it", kind, note_of(lambda note: json.dumps(note).encode()[: len(json.dumps(note)) // 2]))
        yield fault_of("the kind twice", kind, note_of(lambda note: json.dumps(note)[:-1].encode() + b', "kind": "other"}'))
        yield fault_of(
            "900 lists in each other",
            kind,
            note_of(lambda note: json.dumps(note)[:-1].encode() + b', "x": ' + b"[" * 900 + b"]" * 900 + b"}"),
        )
        yield fault_of("a key of 1 MB", kind, note_of(lambda note: note.update({"x" * 2**20: 1})), right(kind))
        for key in ("kind", "format", "sha256", "code"):
            yield fault_of(
                f"no {key}", kind, note_of(lambda note, key=key: note.pop(key) and None), right(kind) if key == "code" else None
            )
            for what, value in ODD[::3]:
                if key != "code":
                    yield fault_of(f"{key} is {what}", kind, _put(key, value))
        yield fault_of("of the other kind", kind, _put("kind", "model" if kind == "run" else "meta-state"))
        yield fault_of(
            "of a format of the future, with a long name", kind, note_of(lambda note: note.update(format=99, code="x" * 100_000))
        )


def _values() -> Iterator[Fault]:
    keys = {
        "model": (
            "plan",
            "dataset",
            "organs",
            "organs.0",
            "organs.0.name",
            "organs.0.labels",
            "organs.0.parts",
            "space",
            "genotype",
            "relaxed",
            "support_content",
            "support_spacing",
            "plan.axes",
            "plan.spacing",
            "plan.view",
            "plan.strides",
            "plan.intensities",
            "plan.in_one_piece",
            "plan.intensities.0.kind",
            "plan.intensities.0.low",
            "plan.intensities.0.scale",
            "space.name",
            "space.base_width",
            "space.levels",
            "space.nodes",
            "space.candidates",
            "genotype.space",
            "genotype.picks",
            "genotype.format",
            "genotype.space.name",
            "genotype.space.base_width",
            "relaxed.progress",
            "relaxed.relaxation",
        ),
        "run": (
            "settings",
            "held_out",
            "train_tasks",
            "settings.space",
            "settings.space.name",
            "settings.space.base_width",
            "settings.space.nodes",
            "settings.learner",
            "settings.adapt",
            "settings.meta",
            "settings.seed",
            "settings.threads",
        ),
    }
    for kind, names in keys.items():
        for number, key in enumerate(names):
            for what, value in ODD[number % 3 :: 3]:  # each value meets many keys, not all of them
                free = FREE.get(key, ())
                harmless = (
                    free is None
                    or what in free
                    or (kind == "model" and key.startswith("relaxed") and what in ("null", "a number", "text"))
                )
                harmless = harmless or (key, what) in {
                    ("plan.in_one_piece", "an empty list"),
                    ("plan.intensities.0.low", "a number"),
                }
                harmless = (
                    harmless
                    or (key == "organs.0.name" and what in ("text", "code", "a path"))
                    or key in ("space.nodes", "space.candidates")
                )
                harmless = harmless or (key in ("settings.seed", "settings.threads") and what == "a number")
                harmless = harmless or (key.startswith("organs.0.parts") and what in ("null", "an empty list"))
                harmless = harmless or (key in ("settings.learner", "settings.adapt", "settings.meta") and what == "null")
                yield fault_of(f"{key} is {what}", kind, _put(key, value), _sound if harmless else None)
            if "." not in key and key not in ("support_content", "support_spacing"):
                yield fault_of(f"no {key}", kind, note_of(lambda note, key=key: note.pop(key) and None))


def _sound(found: Any) -> bool:
    return "tensors" in found


def _lies() -> Iterator[Fault]:
    lies: dict[str, Any] = {
        "plan.axes": ([0, 0, 0], [0, 1, 3], [0, 1], [-1, 0, 1], [0.5, 1, 2]),
        "plan.spacing": ([0, 1, 1], [-1, 1, 1], [1e-9] * 3, [1, 1], ["a", 1, 1], [1e300] * 3),
        "plan.view": ([0, 8, 8], [-8, 8, 8], [10**9] * 3, [8, 8], [8.5, 8, 8]),
        "plan.strides": ([[0, 1, 1]], [[-2, 1, 1]], [[10**9, 1, 1]], [[2, 2]], [[2, 2, 2]] * 10_000),
        "plan.intensities": ([], [{}], [{"kind": "ct"}] * 5000, [{"kind": "evil"}], [{"kind": "ct", "evil": 1}]),
        "plan.intensities.0": (
            {"kind": "ct", "low": 5, "high": -5, "center": 0, "scale": 1},
            {"kind": "ct", "low": 0, "high": 1, "center": 0, "scale": 0},
        ),
        "organs.0.labels": ([0], [256], [-1], [1.5], [1, 1], list(range(1, 300))),
        "organs": ([{"name": "a", "labels": [1], "parts": ["a"]}] * 2, [{"name": "a", "labels": [1]}] * 5000),
        "space.base_width": (512, 3, 1),
        "space": ({"name": "unet_supernet", "base_width": 512, "max_width": 2048, "levels": 8, "nodes": [8] * 8},),
        "genotype.space": (
            {"name": "unet_supernet", "base_width": 512, "max_width": 2048, "levels": 8},
            {"name": "unet_supernet", "base_width": 2, "max_width": 4, "levels": 8, "nodes": [10**6]},
        ),
        "genotype.picks": ({CODE: CODE}, {"../../x": "conv333"}, {}),
        "genotype": (
            {"format": 1, "depth": 10**9, "cells": {}},
            {"format": 1, "depth": 4, "space": {}, "settings": {}, "cells": []},
        ),
        "relaxed": (
            {"relaxation": {"name": CODE}, "progress": 0, "prune": 0},
            {"relaxation": {"name": "softmax", "tau_start": 0}, "progress": 0, "prune": 0},
            {"relaxation": None, "progress": 1e308, "prune": -5},
            {"relaxation": None, "progress": "nan", "prune": "inf"},
        ),
        "support_spacing": ([0, 0, 0], [1e-300] * 3, ["a", "b", "c"], [1], [-1, 1, 1]),
    }
    for key, values in lies.items():
        for number, value in enumerate(values):
            fine = key == "relaxed" or (key, number) in {("space.base_width", 0), ("space", 0)}
            yield fault_of(f"{key}, lie {number}", "model", _put(key, value), _sound if fine else None)
    wide = {"name": "unet_supernet", "base_width": 512, "max_width": 2048, "levels": 8, "nodes": [4] * 8}
    spaces: dict[str, Any] = {
        "a network of 100 GiB": wide,
        "a plain network of 100 GiB": {"name": "unet", "base_width": 512, "max_width": 2048, "levels": 8},
        "10**6 nodes": {"name": "unet_supernet", "nodes": [10**6]},
        "no nodes": {"name": "unet_supernet", "nodes": []},
        "-1 nodes": {"name": "unet_supernet", "nodes": [-1]},
        "a candidate that is code": {"name": "unet_supernet", "candidates": [CODE]},
        "10000 candidates": {"name": "unet_supernet", "candidates": ["conv333"] * 10_000},
        "no candidates": {"name": "unet_supernet", "candidates": []},
        "a space that is code": {"name": CODE},
        "a space that is a path": {"name": "../../x"},
        "9 levels": {"name": "unet", "levels": 9},
        "4 axes": {"name": "unet", "dims": 4},
        "another width": {"name": "unet_supernet", "base_width": 3, "levels": 2, "nodes": [1]},
    }
    for name, space in spaces.items():
        yield fault_of(name, "run", _put("settings.space", space))
    for key, value in (
        ("learner.name", CODE),
        ("adapt.name", "../x"),
        ("meta.name", CODE),
        ("learner.optimizer", CODE),
        ("pretext.names", [CODE]),
    ):
        yield fault_of(
            f"{key} is code or a path", "run", _put(f"settings.{key}", value), _sound if key == "pretext.names" else None
        )
    yield fault_of("tasks with ..", "run", _put("train_tasks", ["../../x"]), _sound)


NOTE_FAULTS = [fault for group in (_texts, _values, _lies) for fault in group()]
