"""Reading of JSON, YAML and text that may be damaged or hostile: bounded in size and depth, without aliases that grow, no silent choice."""

from __future__ import annotations

import json
import math
import os
import reprlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

#: bytes of a text file; a dataset.json of 100,000 cases has about 10 MB
MOST_BYTES = 2**24
#: levels of lists and objects in each other
MOST_LEVELS = 100
#: values after every YAML alias is replaced by what it refers to
MOST_VALUES = 100_000

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 3, 80, 80


class Unreadable(ValueError):
    """Text that cannot be used; the message is a part of a line and does not name the file."""


def brief(value: Any) -> str:
    """Return ``repr(value)`` on one line and shortened, for error messages about values of any size.

    >>> brief([0] * 50)
    '[0, 0, 0, 0, 0, 0, ...]'
    """
    try:
        return _short.repr(value)
    except Exception:  # an object whose repr fails, or a number with too many digits
        return f"a {type(value).__name__}"


def no_file(path: Path | str) -> str:
    """Return why ``path`` is not an ordinary file, or "" if it is one. To open a pipe, or to read a device, may never end."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to a file that does not exist" if os.path.islink(path) else "no such file"
    except NotADirectoryError:
        return "no such file"
    except (OSError, ValueError) as error:  # links in a circle, a name that no file can have, no permission
        return f"cannot be read ({(error.strerror if isinstance(error, OSError) else None) or error})"
    if stat.S_ISREG(mode):
        return ""
    return "found a folder, expected a file" if stat.S_ISDIR(mode) else "found a pipe or a device, expected a file"


def read_text(path: Path | str) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark; raises Unreadable or OSError."""
    if reason := no_file(path):
        raise Unreadable(reason)
    with open(path, "rb") as source:
        content = source.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise Unreadable(f"found more than {MOST_BYTES >> 20} MiB of text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 ({error.reason} at byte {error.start})") from error


def read_json(path: Path | str, finite: bool = False) -> Any:
    """Return the value of a JSON file; raises Unreadable (see ``parse_json``) or OSError."""
    return parse_json(read_text(path), finite)


def parse_json(text: str, finite: bool = False) -> Any:
    """Return the value of JSON text. Raises Unreadable for other text, deep nesting and a key that has two different values.

    With ``finite``, also for NaN and infinity, which are not JSON.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise Unreadable("nested too deeply") from error
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable(f"not JSON ({_line(error)})") from error
    _check_size(value, finite=finite)
    return value


def read_yaml(path: Path | str) -> Any:
    """Return the value of a YAML file; raises Unreadable (see ``parse_yaml``) or OSError."""
    return parse_yaml(read_text(path))


def parse_yaml(text: str) -> Any:
    """Return the plain value of YAML text. Raises Unreadable for other text, tags of Python objects, a key that appears twice,
    deep nesting, and aliases that refer to themselves or would grow to more than ``MOST_VALUES`` values.
    """
    try:
        value = yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except RecursionError as error:
        raise Unreadable("nested too deeply") from error
    # besides its own errors, PyYAML passes on those of int(), of dates and of unknown words after a tag
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        raise Unreadable(f"not YAML ({_line(error)})") from error
    _check_size(value, most=MOST_VALUES)
    return value


class _Loader(yaml.SafeLoader):
    """A loader of plain values that refuses a key that appears twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge")]
        if twice := sorted({key for key in keys if keys.count(key) > 1}) if len(keys) < 1000 else []:
            raise yaml.constructor.ConstructorError(None, None, f"the key {brief(twice[0])} appears twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise Unreadable(f"the key {brief(key)} appears twice, with different values")
        found[key] = value
    return found


def _check_size(value: Any, finite: bool = False, most: float = math.inf) -> None:
    """Raise Unreadable for a tree that is too deep, contains itself or has over ``most`` values; a part that appears twice counts twice."""
    sizes: dict[int, int] = {}
    #: (value, level, None: to be opened, else the parts whose sizes make up its own)
    left: list[tuple[Any, int, list[Any] | None]] = [(value, 0, None)]
    above: set[int] = set()
    while left:
        item, level, parts = left.pop()
        if parts is not None:
            above.discard(id(item))
            sizes[id(item)] = 1 + sum(sizes.get(id(part), 1) for part in parts)
            if sizes[id(item)] > most:
                raise Unreadable(f"too large: more than {most} values once all aliases are replaced")
        elif isinstance(item, dict | list | set | tuple):
            if id(item) in above:
                raise Unreadable("a value that contains itself")
            if id(item) in sizes:
                continue
            if level > MOST_LEVELS:
                raise Unreadable("nested too deeply")
            above.add(id(item))
            inner: Iterable[Any] = [*item.keys(), *item.values()] if isinstance(item, dict) else item
            opened = list(inner)
            left.append((item, level, opened))
            left += [(part, level + 1, None) for part in opened]
        elif finite and isinstance(item, float) and not math.isfinite(item):
            raise Unreadable(f"found {item}, expected finite numbers")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def kind_of(value: Any) -> str:
    """Return what a JSON value is, for messages: ``a list``, ``an object``, ``a text``, ``a number``, ``true or false``, ``null``."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    kinds = {bool: "true or false", str: "a text", list: "a list", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")
