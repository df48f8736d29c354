"""The command ``models``: starts to adapt from, models to predict with, and the card of a start."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .common import Commands, open_console

if TYPE_CHECKING:
    from ..engine.catalogue import Entry

#: columns of a card
_WIDTH = 80


def add_commands(commands: Commands) -> None:
    """Add the command of this file to the parser."""
    sub = commands.add("models", _models, "list the starts to adapt from, shipped and local, and the adapted models")
    sub.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="folders to look in, and two levels below (default: runs, and the folders here)",
    )
    sub.add_argument(
        "--card", metavar="NAME", help="show what a start learned from: the name of a shipped one, or a run's folder"
    )
    sub.add_argument("--json", action="store_true", help="print JSON")


def _models(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..engine.catalogue import list_models, read_card

    if arguments.card is not None:
        if arguments.folders:
            raise UserError("--card shows one start and lists no folder. Give one of the two.")
        card = read_card(arguments.card)
        print(json.dumps(card, indent=2) if arguments.json else "\n".join(_card_lines(card)))
        return
    entries = list_models(arguments.folders or None)
    if arguments.json:
        print(json.dumps([entry.to_json() for entry in entries], indent=2))
        return
    _show(entries)


def _show(entries: list[Entry]) -> None:
    from ..report.tables import rich_table

    columns = {"name": "name", "kind": "kind", "network": "network", "learned": "learned from", "state": "code, hash"}
    if entries:
        open_console().print(rich_table([_row(entry) for entry in entries], columns))
    else:
        print("no start and no model was found")
    for entry in entries:
        if entry.problem:
            print(f"damaged: {_plain(entry.name)}: {_plain(entry.problem)}")
    print("metanas-med models --card NAME shows what a start learned from; metanas-med doctor FOLDER checks one to the end.")


def _row(entry: Entry) -> dict[str, str]:
    from ..engine.catalogue import names

    row = {"name": _plain(entry.name), "kind": entry.kind}
    if entry.problem:
        return row | {"network": "damaged", "learned": "", "state": ""}
    width = "" if entry.base_width is None else f" {entry.base_width}"
    if entry.kind == "start":
        learned = f"{entry.datasets} data sets, {entry.iterations} iterations"
    else:
        learned = names(entry.organs) + ("" if entry.scans is None else f": {entry.scans} scans")
    return row | {
        "network": f"{entry.space}{width}, {entry.num_bytes / 1024:.0f} KiB",
        "learned": _plain(learned),
        # the git revision alone where there is one: the version is the same for most
        "state": _plain(f"{entry.code.rpartition('-')[2]} {entry.sha256[:12]}"),
    }


def _card_lines(card: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a card, at most 80 columns wide where words allow it."""
    for key, value in card.items():
        heading = key.replace("_", " ")
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield f"{heading}:"
            for item in value:
                yield from _wrapped(_item(item), "  - ")
        elif isinstance(value, Mapping):
            yield from _wrapped(", ".join(f"{name} {number}" for name, number in value.items()), f"{heading}: ")
        elif isinstance(value, list) and any(len(str(item)) > 40 for item in value):
            yield f"{heading}:"
            for item in value:
                yield from _wrapped(str(item), "  - ")
        else:
            text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
            yield from _wrapped(text or "none", f"{heading}: ")


def _item(item: Any) -> str:
    """Return an entry of a card's list, such as a data set, in one sentence."""
    if not isinstance(item, Mapping):
        return str(item)
    parts = [str(item["dataset"])] if "dataset" in item else []
    for key, value in item.items():
        if key != "dataset" and value not in ("", [], None):
            parts.append(f"{key} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return "; ".join(parts)


def _wrapped(text: str, first: str) -> list[str]:
    indent = " " * min(len(first), 4)
    found = textwrap.wrap(
        _plain(text), _WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return found or [first.rstrip()]


def _plain(text: str) -> str:
    """Return ``text`` without characters that a terminal would obey; a folder may have any name."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
