"""The table that `curvature_summary` prints: by rich where it is installed, else as plain text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tf_kfgn.optimizers import GaussNewton

_HEADINGS = ("block (layer)", "kind", "A", "G", "state, MiB", "work / gradient", "note")
_NUMBERS = {"state, MiB", "work / gradient"}  # to the right
_FOLDED = {"block (layer)", "kind", "A", "G", "note"}  # rather than cut off
_WIDTH = 130


def table_of(
    model: keras.Model,
    optimizer: GaussNewton,
    rows: Mapping[str, Mapping[str, Any]],
    batch_size: int,
) -> str:
    """A table of blocks.

    Args:
        model: Whose blocks they are.
        optimizer: Whose settings count.
        rows: What `curvature_summary` returns.
        batch_size: Examples in a batch.
    """
    title = (
        f"Curvature of {model.name!r} under {type(optimizer).__name__}, "
        f"{batch_size} examples a batch"
    )
    lines = [
        (
            f"{name} ({row['layer']})",
            row["kind"],
            _shape(row["A"]),
            _shape(row["G"]),
            f"{row['state_mib']:.3g}",
            "" if row["work"] is None else f"{row['work']:.2f}",
            row["note"],
        )
        for name, row in rows.items()
    ]
    size = sum(row["state_mib"] for row in rows.values())
    total = ("total", "", "", "", f"{size:.3g}", "", "")
    try:
        return _rich(title, lines, total)
    except ImportError:
        return plain(title, lines, total)


def plain(title: str, lines: Sequence[Sequence[str]], total: Sequence[str]) -> str:
    """The table in columns of plain text.

    Args:
        title: Its title.
        lines: The cells of each row.
        total: The cells of the last row, below a rule.
    """
    cells = [_HEADINGS, *lines, total]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    rule = "  ".join("-" * width for width in widths)

    def aligned(line: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if heading in _NUMBERS else cell.ljust(width)
            for heading, cell, width in zip(_HEADINGS, line, widths, strict=True)
        )
        return "  ".join(padded).rstrip()

    rows = [aligned(line) for line in lines]
    return "\n".join([title, aligned(_HEADINGS), rule, *rows, rule, aligned(total), ""])


def _rich(title: str, lines: Sequence[Sequence[str]], total: Sequence[str]) -> str:
    import rich.console
    import rich.table

    table = rich.table.Table(title=title)
    for heading in _HEADINGS:
        table.add_column(
            heading,
            justify="right" if heading in _NUMBERS else "left",
            overflow="fold" if heading in _FOLDED else "ellipsis",
        )
    for line in lines:
        table.add_row(*line)
    table.add_section()
    table.add_row(*total)
    text = io.StringIO()
    rich.console.Console(file=text, width=_WIDTH).print(table)
    return text.getvalue()


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else " x ".join(str(size) for size in shape)
