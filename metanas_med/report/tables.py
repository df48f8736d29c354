"""Tables of results: Markdown for files, rich for the terminal; one way to write a number in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Rows = Sequence[Mapping[str, Any]]
#: Column names, or column names with their headings; None takes the columns of all rows in order of appearance.
Columns = Sequence[str] | Mapping[str, str] | None


def format_value(value: Any, digits: int = 3) -> str:
    """Return a cell's text: ``digits`` decimals for a float under 100, one above, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.1f}"
    return str(value)


def _headings(rows: Rows, columns: Columns) -> dict[str, str]:
    if isinstance(columns, Mapping):
        return dict(columns)
    names = columns if columns is not None else dict.fromkeys(key for row in rows for key in row)
    return {name: name for name in names}


def _is_number(rows: Rows, name: str) -> bool:
    values = [row.get(name) for row in rows if row.get(name) is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def markdown_table(rows: Rows, columns: Columns = None, digits: int = 3) -> str:
    """Return a Markdown table with a line break at its end; number columns are aligned right."""
    headings = _headings(rows, columns)
    rule = ["---:" if _is_number(rows, name) else "---" for name in headings]
    lines = [list(headings.values()), rule]
    lines += [[format_value(row.get(name), digits).replace("|", "\\|") for name in headings] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rich_table(rows: Rows, columns: Columns = None, title: str = "", digits: int = 3) -> Table:
    """Return a rich table, ready for ``Console().print``; number columns are aligned right."""
    from rich.markup import escape
    from rich.table import Table

    headings = _headings(rows, columns)
    table = Table(title=escape(title) or None, title_justify="left")
    for name, heading in headings.items():
        table.add_column(escape(heading), justify="right" if _is_number(rows, name) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(format_value(row.get(name), digits)) for name in headings))
    return table
