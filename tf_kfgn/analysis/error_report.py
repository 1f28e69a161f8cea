"""What `curvature_error` returns: numbers, a table, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_kfgn.analysis.extras import require
from tf_kfgn.analysis.palette import COLOURS, GREY
from tf_kfgn.analysis.text_table import Column, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALL = "all layers"
EXACT_BLOCKS = "blocks"
MARKERS = "os^Dvp"


class CurvatureErrors(dict[str, dict[str, dict[str, Any]]]):
    """`{method: {layer: numbers}}`; prints as a table. See `curvature_error` for the numbers.

    Attributes:
        dampings: The values of τ for which there are cosines.
    """

    def __init__(
        self, rows: Mapping[str, dict[str, dict[str, Any]]], dampings: Sequence[float]
    ) -> None:
        """Hold the numbers."""
        super().__init__(rows)
        self.dampings = tuple(dampings)

    @property
    def layers(self) -> list[str]:
        """The names of the layers, without the whole."""
        return [name for name in next(iter(self.values())) if name != ALL]

    @property
    def best(self) -> str:
        """The method whose whole direction is nearest to the exact step, on average over τ.

        The exact blocks do not compete, unless they are alone: no optimizer has them.
        """
        means = {method: _mean_cosine(rows[ALL]) for method, rows in self.items()}
        competing = [method for method in means if method != EXACT_BLOCKS] or list(means)
        return max(competing, key=lambda method: means[method])

    def weakest(self, method: str) -> str:
        """The layer whose part of a method's direction is furthest from the exact one.

        Args:
            method: One of the methods.
        """
        means = {name: _mean_cosine(self[method][name]) for name in self.layers}
        return min(means, key=lambda name: means[name])

    def __str__(self) -> str:
        """The table."""
        columns = [
            Column("layer", folded=True),
            Column("method"),
            Column("Frobenius error", number=True),
            Column("trace ratio", number=True),
            Column("top eigenvalue ratio", number=True),
            *(Column(f"cosine, τ={damping:g}", number=True) for damping in self.dampings),
        ]
        lines = [
            _cells(name if first else "", method, self[method][name])
            for name in [*self.layers, ALL]
            for first, method in zip([True] + [False] * len(self), self, strict=False)
        ]
        table = text_table("Approximations against the exact Gauss-Newton matrix", columns, lines)
        weakest = self.weakest(self.best)
        return f"{table}Nearest to the exact step: {self.best}; its weakest layer: {weakest}.\n"

    def figure(self) -> Figure:
        """Frobenius errors of the layers, and cosines against the damping.

        Returns:
            A figure that belongs to no window; `savefig` and notebooks show it.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        figures = require("matplotlib.figure", "A figure of curvature errors")
        figure: Figure = figures.Figure(figsize=(7.2, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color="0.9")
            axes.set_axisbelow(True)
        self._draw_layers(left)
        self._draw_cosines(right)
        figure.legend(
            *right.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(self) + 1,
            frameon=False,
        )
        return figure

    def _draw_layers(self, axes: Axes) -> None:
        names = [*self.layers, ALL]
        for index, (method, rows) in enumerate(self.items()):
            errors = [rows[name]["frobenius_error"] for name in names]
            heights = np.arange(len(names)) + 0.16 * (index - (len(self) - 1) / 2)
            axes.plot(errors, heights, _marker(index), color=_colour(index), label=method)
        axes.axhline(len(names) - 1.5, color=GREY, linewidth=0.8)
        axes.set_yticks(range(len(names)), labels=[_short(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("relative Frobenius error")
        axes.set_title("Error of the blocks", loc="left")

    def _draw_cosines(self, axes: Axes) -> None:
        for index, (method, rows) in enumerate(self.items()):
            cosines = [rows[ALL]["cosine"][damping] for damping in self.dampings]
            style = f"{_marker(index)}-"
            axes.plot(self.dampings, cosines, style, color=_colour(index), label=method)
        axes.set_xscale("log")
        axes.set_xlabel("damping τ (loss / weight²)")
        axes.set_ylabel("cosine with the exact step")
        axes.set_title("Direction of the update", loc="left")


def _mean_cosine(row: Mapping[str, Any]) -> float:
    """Over the dampings; a direction of nothing counts as wrong."""
    return float(np.mean(np.nan_to_num(list(row["cosine"].values()), nan=-1.0)))


def _cells(name: str, method: str, row: Mapping[str, Any]) -> list[str]:
    numbers = [row["frobenius_error"], row["trace_ratio"], row["eigenvalue_ratio"]]
    cosines = row["cosine"].values()
    return [name, method, *(f"{n:.3g}" for n in numbers), *(f"{c:.4f}" for c in cosines)]


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


def _short(name: str) -> str:
    return name if len(name) <= 18 else "…" + name[-17:]
