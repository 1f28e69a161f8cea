"""The table that `curvature_summary` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tf_kfgn.analysis.text_table import Column, text_table
from tf_kfgn.optimizers import GaussNewton

_COLUMNS = (
    Column("block (layer)", folded=True),
    Column("kind", folded=True),
    Column("A", folded=True),
    Column("G", folded=True),
    Column("state, MiB", number=True),
    Column("work / gradient", number=True),
    Column("note", folded=True),
)


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
    return text_table(title, _COLUMNS, lines, ("total", "", "", "", f"{size:.3g}", "", ""))


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else " x ".join(str(size) for size in shape)
