"""Settings from a YAML file and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ..errors import ConfigError, suggest
from ..parse import Unreadable, brief, parse_yaml, read_yaml
from .section import Section, expanded, merged, part_class

SettingsT = TypeVar("SettingsT", bound=Section)


def load_settings(path: Path | str | None, overrides: Sequence[str], base: type[SettingsT]) -> SettingsT:
    """Return the settings of class ``base`` of a YAML file (or the defaults) after ``["--section.key", "value", ...]``.

    Raises ConfigError for a missing or malformed file, an unknown key (with the closest one) or a value out of bounds.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = read_yaml(path)
        except OSError as error:
            raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
        except Unreadable as error:
            said = f"{path} is {error}" if str(error).startswith("not ") else f"cannot read configuration {path}: {error}"
            raise ConfigError(said) from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"{path}: expected sections of keys, found {type(loaded).__name__}")
        tree = loaded or {}
    return _build(tree, overrides, base, f"{path}: " if path is not None else "")


def override(settings: SettingsT, overrides: Sequence[str]) -> SettingsT:
    """Return ``settings`` after ``["--section.key", "value", ...]``; errors as in ``load_settings``."""
    return _build(settings.model_dump(), overrides, type(settings))


def _build(tree: dict[str, Any], overrides: Sequence[str], base: type[SettingsT], source: str = "") -> SettingsT:
    """Return the settings; ``source`` begins the errors about values that are not among ``overrides``."""
    above: dict[str, Any] = {}
    pairs = _pairs(overrides)
    tree = expanded(base, tree)
    for key, value in pairs:
        if "." not in key and (preset := expanded(base, {key: value})) != {key: value}:
            tree = merged(base, tree, preset)  # values of other options are laid over it, whatever their order
            continue
        node = above
        *sections, leaf = key.split(".")
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--{brief(key)[1:-1]}: {brief(section)} is a value, not a section")
        node[leaf] = value
    try:
        return base.model_validate(merged(base, tree, above))
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        ours = any(f"{place}.".startswith(f"{key}.") or f"{key}.".startswith(f"{place}.") for key, _ in pairs)
        raise ConfigError(("" if ours else source) + _explain(error, base)) from error
    except RecursionError as error:
        raise ConfigError(f"{source}settings nested too deeply, expected --section.key") from error


def _pairs(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    items = list(overrides)
    while items:
        flag = items.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(f"expected --section.key before {flag!r}")
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not items or items[0].startswith("--"):
                raise ConfigError(f"--{key} needs a value")
            value = items.pop(0)
        try:
            parsed = parse_yaml(value)
        except Unreadable as error:
            raise ConfigError(f"--{key}: {brief(value)} is {error}") from error
        if isinstance(parsed, str):
            try:  # YAML 1.1 reads 1e-3 as text
                parsed = float(parsed)
            except ValueError:
                pass
        pairs.append((key, parsed))
    return pairs


def _explain(error: ValidationError, base: type[Section]) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return f"unknown setting {brief('.'.join(place))}; {suggest(place[-1], _keys(base, place[:-1]))}"
    if first["type"] == "unknown_part":
        return f"setting {'.'.join(place)}: {first['msg']}"
    if first["type"] == "value_error" and isinstance(first["input"], dict):  # of a whole section: its message names the values
        return f"setting{' ' * bool(place)}{'.'.join(place)}: {first['msg'].removeprefix('Value error, ')}"
    message = f"expected a list, such as '[{brief(first['input'])}]'" if first["type"] == "tuple_type" else first["msg"]
    return f"setting {'.'.join(place)}: {message}, found {brief(first['input'])}"


def _keys(kind: type[Section] | None, place: Sequence[str]) -> Sequence[str]:
    """Return the names of the settings at ``place``."""
    for part in place:
        if part.isdigit():
            continue
        field = kind.model_fields.get(part) if kind else None
        if field is None:
            return ()
        kind = part_class(field, {}) or next((k for k in getattr(field.annotation, "__args__", ()) if isinstance(k, type)), None)
    return list(getattr(kind, "model_fields", ()))
