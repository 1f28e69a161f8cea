"""SpectralDensity: the distribution of eigenvalues, as numbers and as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tf_kfgn.analysis.extras import require
from tf_kfgn.analysis.palette import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class SpectralDensity:
    """Points on the axis of eigenvalues, with weights that sum to 1.

    Attributes:
        points: Eigenvalues, or the nodes of a quadrature for them.
        weights: The part of all eigenvalues that each point stands for.
        size: Number of eigenvalues, those at zero included.
    """

    points: np.ndarray
    weights: np.ndarray
    size: int

    @property
    def trace(self) -> float:
        """The sum of all eigenvalues."""
        return self.size * float(self.points @ self.weights)

    def mean_of(self, function: np.ufunc) -> float:
        """The mean of a function over all eigenvalues, as `np.square`."""
        return float(function(self.points) @ self.weights)

    def below(self, value: float) -> float:
        """The part of all eigenvalues below a value."""
        return float(self.weights[self.points < value].sum())

    def smoothed(self, grid: np.ndarray, width: float | None = None) -> np.ndarray:
        """The density on a grid: a Gaussian around each point.

        Args:
            grid: Where to take the density.
            width: Standard deviation of the Gaussians, in the unit of the eigenvalues. By default
                a hundredth of the range of the points.

        Returns:
            Shaped like the grid, with integral 1 over the whole axis.
        """
        width = self._width if width is None else width
        distances = (np.asarray(grid)[..., None] - self.points) / width
        return np.exp(-(distances**2) / 2) @ self.weights / (width * np.sqrt(2 * np.pi))

    def figure(self, label: str = "spectral density") -> Figure:
        """The smoothed density on a logarithmic axis.

        Args:
            label: Name of the curve.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        return densities_figure({label: self})

    @property
    def _width(self) -> float:
        return float(np.ptp(self.points)) / 100 or max(abs(float(self.points[0])), 1.0) / 100


def densities_figure(densities: Mapping[str, SpectralDensity]) -> Figure:
    """Several densities in one picture, on a logarithmic axis of densities.

    Args:
        densities: By the names of their curves.

    Returns:
        A figure that belongs to no window; `savefig` and notebooks show it.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figures = require("matplotlib.figure", "A figure of spectral densities")
    figure: Figure = figures.Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    low = min(float(density.points.min()) for density in densities.values())
    high = max(float(density.points.max()) for density in densities.values())
    margin = 0.05 * (high - low) or 0.05
    grid = np.linspace(low - margin, high + margin, 1000)
    lowest, highest = np.inf, 0.0
    styles = ("-", "--", "-.", ":")
    for index, (name, density) in enumerate(densities.items()):
        values = density.smoothed(grid, (high - low) / 100 or None)
        highest = max(highest, float(values.max()))
        lowest = min(lowest, 0.1 / (density.size * (high - low or 1.0)))
        colour, style = COLOURS[index % len(COLOURS)], styles[index % len(styles)]
        axes.plot(grid, values, style, color=colour, label=name, linewidth=1.8)
    axes.set_yscale("log")
    axes.set_ylim(lowest, 3 * highest)
    axes.set_xlabel("eigenvalue (loss / weight²)")
    axes.set_ylabel("density of eigenvalues")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return figure
