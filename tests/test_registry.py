"""Registries: parts by name, and a file in its package is all that a new part needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from metanas_med.errors import ConfigError
from metanas_med.registry import Registry

FILE = """from metanas_med.{0} import {1}


@{1}("added")
def make(*arguments):
    \"\"\"An added part.\"\"\"
    return "made"
"""
ROOMS = [
    ("space", "space.registry.SPACES"),
    ("learner", "learner.base.LEARNERS"),
    ("learner.relaxations", "learner.relaxations.base.RELAXATIONS"),
    ("learner.alpha_gradients", "learner.alpha_gradients.base.ALPHA_GRADIENTS"),
    ("learner.regularizers", "learner.regularizers.base.REGULARIZERS"),
    ("learner.discretizers", "learner.discretizers.base.DISCRETIZERS"),
    ("meta", "meta.base.METAS"),
    ("pretext", "pretext.registry.PRETEXTS"),
    ("search", "search.base.STRATEGIES"),
    ("search.scores", "search.scores.base.SCORES"),
]


@pytest.mark.parametrize(("room", "place"), ROOMS, ids=[room for room, _ in ROOMS])
def test_adding_a_part_is_adding_a_file(room: str, place: str, add_part: Callable[..., None]) -> None:
    module, name = place.rsplit(".", 1)
    registry: Registry[Any] = getattr(importlib.import_module(f"metanas_med.{module}"), name)
    before = registry.names()
    package = importlib.import_module(f"metanas_med.{room}")
    register = next(key for key, value in vars(package).items() if key.startswith("register_") and value == registry.register)
    add_part(registry, f"metanas_med.{room}", FILE.format(room, register))
    assert registry.names() == sorted([*before, "added"]) and registry.build("added", 1) == "made"
    assert registry.entry("added").about == "An added part."


def test_what_is_registered_in_a_block_is_gone_after_it() -> None:
    registry: Registry[str] = Registry("kind")
    registry.register("first")(lambda: "one")
    with registry.extended():
        registry.register("second")(lambda: "two")
        assert registry.build("second") == "two"
    assert registry.names() == ["first"] and registry.build("first") == "one"
    with pytest.raises(ConfigError, match="unknown kind 'second'"):
        registry.build("second")


def test_a_name_is_registered_once() -> None:
    registry: Registry[str] = Registry("kind")
    registry.register("first")(lambda: "one")
    with pytest.raises(ValueError, match="kind 'first' is registered twice"):
        registry.register("first")(lambda: "two")
