"""Settings as YAML with their documentation, for people to read."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import lru_cache
from typing import Any

import yaml

from .section import Section


def show(settings: Section, indent: int = 0) -> str:
    """Return ``settings`` as YAML: each value with the ``#:`` comment of its field, each section with its docstring."""
    lines: list[str] = []
    about = documentation(type(settings))
    values: list[tuple[str, Any]] = [(name, getattr(settings, name)) for name in type(settings).model_fields]
    plain = [(name, value) for name, value in values if not isinstance(value, Section)]
    pad = "  " * indent
    for name, value in plain:
        shown = (
            [each.model_dump(mode="json") if isinstance(each, Section) else each for each in value]
            if isinstance(value, tuple)
            else value
        )
        text = f"{pad}{name}: {_yaml(shown)}"
        lines.append(f"{text:<44}  # {about[name]}" if about.get(name) else text)
    for name, value in values:
        if isinstance(value, Section):
            summary = (inspect.getdoc(type(value)) or "").partition("\n")[0]
            lines += [f"{pad}{name}:" + (f"  # {summary}" if summary else ""), show(value, indent + 1)]
    return "\n".join(line for line in lines if line)


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).strip()
    return text.removesuffix("...").strip()


@lru_cache(maxsize=256)
def documentation(kind: type[Section]) -> dict[str, str]:
    """Return the ``#:`` comment of every field of a settings class, including inherited fields."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not (isinstance(base, type) and issubclass(base, Section)) or base is Section:
            continue
        try:
            lines = textwrap.dedent(inspect.getsource(base)).splitlines()
        except (OSError, TypeError):  # a class without a source file
            continue
        for node in ast.parse("\n".join(lines)).body[0].body:  # type: ignore[attr-defined]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                own = lines[node.lineno - 1 : node.end_lineno]
                above = [line for line in lines[max(node.lineno - 3, 0) : node.lineno - 1] if line.strip().startswith("#:")]
                text = next((line.partition("#:")[2].strip() for line in [*own, *above] if "#:" in line), "")
                if text or node.target.id not in found:
                    found[node.target.id] = text
    return found
