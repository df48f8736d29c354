"""Rewrites the tables of all settings in docs/training.md from the classes of settings; ``--check`` only says whether they are current."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from metanas_med import config
from metanas_med.config.section import registry_of
from metanas_med.engine.settings import Settings

DOCUMENT = Path(__file__).parents[1] / "docs" / "training.md"
BEGIN, END = "<!-- settings: written by scripts/settings_table.py -->", "<!-- end of settings -->"


def tables() -> str:
    """Return the Markdown of all settings: those without a section first, then a table a section."""
    top, parts = [], []
    learner = False
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, config.Section)):
            top.append(name)
        elif kind is config.LearnerSettings and learner:
            parts.append(f"### `{name}`\n\nThe same keys and defaults as `learner`.\n")
        else:
            learner |= kind is config.LearnerSettings
            registry = registry_of(field)
            parts.append(_table(f"`{name}`", kind, list(kind.model_fields), field.default if registry else None))
            for entry in registry.entries() if registry else ():
                if entry.settings and (own := [key for key in entry.settings.model_fields if key not in kind.model_fields]):
                    parts.append(_table(f"`{name}` with `name: {entry.name}`", entry.settings, own))
    return "\n".join([_table("Without a section", Settings, top), *parts])


def _table(title: str, section: type[config.Section], keys: list[str], default: config.Section | None = None) -> str:
    meanings = _meanings(section)
    lines = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for key in keys:
        field = section.model_fields[key]
        lines.append(
            f"| `{key}` | `{_yaml(getattr(default, key) if default else field.default)}` | {_allowed(field)} | {meanings.get(key, '')} |"
        )
    about = inspect.getdoc(section) if section is not Settings else ""
    return "\n".join([f"### {title}\n", *([f"{about}\n"] if about and section.__doc__ else []), *lines]) + "\n"


def _meanings(section: type) -> dict[str, str]:
    """Return what stands behind ``#:`` beside each field."""
    source = inspect.getsource(section)
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own = lines[node.lineno - 1 : node.end_lineno]
            found[node.target.id] = next((line.partition("#:")[2].strip() for line in own if "#:" in line), "")
    return found


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if value == "":
        return "''"
    return value if isinstance(value, str) else json.dumps(value)


def _allowed(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{_yaml(value)}`" for value in get_args(kind))
    bounds = {name: getattr(part, name) for part in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(part, name)}
    text = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text"}.get(kind, "")  # type: ignore[call-overload]
    if get_origin(kind) is tuple:
        text = "list of " + {int: "whole numbers", str: "names"}[get_args(kind)[0]]
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return " ".join([text, ", ".join(f"{signs[name]} {bound:g}" for name, bound in bounds.items())]).strip()


def main(arguments: list[str]) -> int:
    """Return 0 when the tables are (or, without ``--check``, have become) current."""
    text = DOCUMENT.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print(f"{DOCUMENT}: expected one line {BEGIN!r} and one {END!r}", file=sys.stderr)
        return 1
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    wanted = f"{head}{BEGIN}\n\n{tables()}\n{END}{tail}"
    if wanted == text:
        return 0
    if "--check" in arguments:
        print(f"{DOCUMENT}: the tables are not current; run python scripts/settings_table.py", file=sys.stderr)
        return 1
    DOCUMENT.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
