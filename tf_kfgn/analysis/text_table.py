"""Tables for reading: by rich where it is installed, else as plain text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

_WIDTH = 130

Cells = Sequence[str]


class Column(NamedTuple):
    """How a column of a table looks.

    Attributes:
        heading: Its heading.
        number: Whether it stands to the right.
        folded: Whether a long cell is folded rather than cut off.
    """

    heading: str
    number: bool = False
    folded: bool = False


def text_table(
    title: str, columns: Sequence[Column], lines: Sequence[Cells], last: Cells | None = None
) -> str:
    """A table as text, which ends with a line break.

    Args:
        title: Its title.
        columns: Its columns.
        lines: The cells of each row.
        last: The cells of a last row, below a rule; None for none.
    """
    try:
        return _rich(title, columns, lines, last)
    except ImportError:
        return _plain(title, columns, lines, last)


def _plain(
    title: str, columns: Sequence[Column], lines: Sequence[Cells], last: Cells | None
) -> str:
    headings = [column.heading for column in columns]
    cells = [headings, *lines, *([] if last is None else [last])]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    rule = "  ".join("-" * width for width in widths)

    def aligned(line: Cells) -> str:
        padded = (
            cell.rjust(width) if column.number else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        )
        return "  ".join(padded).rstrip()

    rows = [title, aligned(headings), rule, *(aligned(line) for line in lines)]
    if last is not None:
        rows += [rule, aligned(last)]
    return "\n".join([*rows, ""])


def _rich(title: str, columns: Sequence[Column], lines: Sequence[Cells], last: Cells | None) -> str:
    import rich.console
    import rich.table

    table = rich.table.Table(title=title)
    for heading, number, folded in columns:
        table.add_column(
            heading,
            justify="right" if number else "left",
            overflow="fold" if folded else "ellipsis",
        )
    for line in lines:
        table.add_row(*line)
    if last is not None:
        table.add_section()
        table.add_row(*last)
    text = io.StringIO()
    rich.console.Console(file=text, width=_WIDTH).print(table)
    return text.getvalue()
