"""Tables of results: Markdown for files, rich for the terminal; both format numbers the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

Rows = Sequence[Mapping[str, Any]]
#: Column names, or column names with their headings; None means the columns of all rows in order of appearance.
Columns = Sequence[str] | Mapping[str, str] | None
#: terminal columns that the borders of a table take per column: a line and two spaces
_BORDERS = 3


def format_value(value: Any, digits: int = 3) -> str:
    """Return a cell's text: ``digits`` decimals for a float below 100, one decimal above, a dash for None."""
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
    """Return a Markdown table that ends with a line break; number columns are aligned right."""
    headings = _headings(rows, columns)
    rule = ["---:" if _is_number(rows, name) else "---" for name in headings]
    lines = [list(headings.values()), rule]
    lines += [[format_value(row.get(name), digits).replace("|", "\\|") for name in headings] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rich_table(rows: Rows, columns: Columns = None, title: str = "", digits: int = 3) -> FittedTable:
    """Return a table for ``Console().print`` that fits the console's width; number columns are aligned right.

    A value wraps between its words. A list or tuple wraps only between its items, so ``("left lung",)`` is never split.
    """
    headings = _headings(rows, columns)
    cells = [[_pieces(row.get(name), digits) for name in headings] for row in rows]
    return FittedTable(list(headings.values()), cells, [_is_number(rows, name) for name in headings], title)


@dataclass(frozen=True)
class FittedTable:
    """A table that never breaks a word: if its columns do not fit side by side, each row becomes a block of lines.

    A word that is longer than the whole line, such as a long path, runs over the end of the line.
    """

    headings: list[str]
    cells: list[list[list[str]]]  #: by row and column: the pieces of text between which a cell may wrap
    numbers: list[bool]  #: by column: whether to align it right
    title: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the title and the table or its blocks, for the width that ``options`` give."""
        from rich.text import Text

        if self.title:
            title = _wrap(self.title.split(), options.max_width)
            yield Text("\n".join(title), style="table.title", no_wrap=True, overflow="ignore")
        least = [max(_longest(column), _longest([heading.split()])) for heading, column in self._columns()]
        most = [_longest([[" ".join(pieces)] for pieces in (heading.split(), *column)]) for heading, column in self._columns()]
        widths = fit_widths(least, most, options.max_width - _BORDERS * len(self.headings) - 1)
        if widths is None:
            yield self._blocks(options.max_width)
        elif widths:
            yield self._table(widths)

    def _columns(self) -> list[tuple[str, list[list[str]]]]:
        return [(heading, [row[number] for row in self.cells]) for number, heading in enumerate(self.headings)]

    def _table(self, widths: Sequence[int]) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for heading, width, is_number in zip(self.headings, widths, self.numbers, strict=True):
            text = Text("\n".join(_wrap(heading.split(), width)))
            table.add_column(text, justify="right" if is_number else "left", width=width)
        for row in self.cells:
            table.add_row(*(Text("\n".join(_wrap(cell, width))) for cell, width in zip(row, widths, strict=True)))
        return table

    def _blocks(self, width: int) -> Text:
        """Return every row as lines of heading and value, without empty values, and with an empty line between rows."""
        from rich.text import Text

        indent = _longest([self.headings]) + 2
        blocks = []
        for row in self.cells:
            lines = [
                Text.assemble((heading.ljust(indent), "bold"), f"\n{' ' * indent}".join(_wrap(cell, width - indent)))
                for heading, cell in zip(self.headings, row, strict=True)
                if cell
            ]
            blocks.append(Text("\n").join(lines))
        text = Text("\n\n").join(blocks)
        text.no_wrap, text.overflow = True, "ignore"
        return text


def fit_widths(least: Sequence[int], most: Sequence[int], room: int) -> list[int] | None:
    """Return column widths from ``least`` to ``most`` that sum to at most ``room``; None if even ``least`` does not fit.

    Narrow columns get their full width first, so that only those with long texts wrap.
    """
    spare = room - sum(least)
    if spare < 0:
        return None
    widths = list(least)
    order = sorted(range(len(widths)), key=lambda column: most[column] - least[column])
    for position, column in enumerate(order):
        added = min(most[column] - least[column], spare // (len(order) - position))
        widths[column] += added
        spare -= added
    return widths


def _pieces(value: Any, digits: int) -> list[str]:
    if isinstance(value, list | tuple):
        items = [format_value(item, digits) for item in value]
        return [f"{item}," for item in items[:-1]] + items[-1:]
    return format_value(value, digits).split()


def _wrap(pieces: Sequence[str], width: int) -> list[str]:
    """Return lines of at most ``width`` columns; a longer piece has a line of its own."""
    lines: list[str] = []
    for piece in pieces:
        if lines and _longest([[f"{lines[-1]} {piece}"]]) <= width:
            lines[-1] += f" {piece}"
        else:
            lines.append(piece)
    return lines


def _longest(texts: Sequence[Sequence[str]]) -> int:
    """Return the number of terminal columns that the longest of all pieces takes."""
    from rich.cells import cell_len

    return max((cell_len(piece) for pieces in texts for piece in pieces), default=0)
