"""error_surface: the objective over a plane of weights, as in figure 1 of the paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras.losses import built_loss
from tf_kfgn.analysis.examples import Examples
from tf_kfgn.analysis.extras import require
from tf_kfgn.analysis.palette import GREY
from tf_kfgn.analysis.progress import follow
from tf_kfgn.enabling import check_built
from tf_kfgn.numerics.checks import POSITIVE, check_choice, check_count, check_number

if TYPE_CHECKING:
    from mpl_toolkits.mplot3d import Axes3D

Direction = Sequence[Any]
Origin = Literal["weights", "zero"]


@dataclasses.dataclass(frozen=True, eq=False)
class ErrorSurface:
    """E on a grid of a plane.

    Attributes:
        first: Coordinates x along the first direction, shape `(m,)`.
        second: Coordinates y along the second direction, shape `(n,)`.
        values: E at `origin + x U + y V`, shape `(m, n)`.
    """

    first: np.ndarray
    second: np.ndarray
    values: np.ndarray

    def plot(
        self, axes: Axes3D | None = None, *, labels: tuple[str, str] = ("x", "y"), title: str = ""
    ) -> Axes3D:
        """Draw the surface in three dimensions, and its contours below.

        Args:
            axes: Where to draw, axes with `projection="3d"`. By default those of a new figure.
            labels: Of the two coordinates.
            title: Of the panel.

        Returns:
            The axes; `axes.figure` can be saved.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        figures = require("matplotlib.figure", "A plot of an error surface")
        if axes is None:
            figure = figures.Figure(figsize=(4.5, 4.2))
            axes = figure.add_subplot(projection="3d")
        X, Y = np.meshgrid(self.first, self.second, indexing="ij")
        low, high = float(self.values.min()), float(self.values.max())
        floor = low - 0.55 * (high - low or 1.0)
        axes.plot_surface(
            X, Y, self.values, cmap="cividis", rcount=61, ccount=61, linewidth=0.1, alpha=0.95
        )
        if high > low:
            levels = np.quantile(self.values, np.linspace(0.02, 0.95, 12))
            axes.contour(
                X, Y, self.values, levels=np.unique(levels), offset=floor, cmap="cividis",
                linewidths=0.9,
            )  # fmt: skip
        axes.set_zlim(floor, high)
        axes.set_xlabel(labels[0], labelpad=-4)
        axes.set_ylabel(labels[1], labelpad=-4)
        axes.set_zlabel("E", labelpad=-6)
        axes.tick_params(labelsize=7, pad=-2, colors=GREY)
        locator = require("matplotlib.ticker", "A plot").MaxNLocator
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(locator(4))
        ticks = locator(4).tick_values(low, high)
        axes.set_zticks([tick for tick in ticks if low <= tick <= high])  # none at the contours
        if title:
            axes.set_title(title, fontsize=10, y=1.0)
        return axes


def error_surface(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: Any,
    directions: tuple[Direction, Direction],
    *,
    extent: float | tuple[float, float] = 1.0,
    points: int | tuple[int, int] = 41,
    origin: Origin = "weights",
    sample_weight: Any = None,
) -> ErrorSurface:
    """The objective over a plane of weights: E at `origin + x U + y V`.

    Figure 1 of Botev et al. (2017) is of this kind, with the origin at zero: `W1 = x U + y V`, the
    same in W2, and `W1 = x U`, `W2 = y V` jointly.

    Args:
        model: A built Keras model; it runs in inference mode, and its weights are unchanged
            afterwards.
        x: Inputs, one batch.
        y: Targets as the loss takes them.
        loss: What `compile(loss=...)` takes.
        directions: U and V, each a list with an array for each of `model.trainable_variables`,
            shaped like it, or None where the direction leaves it alone.
        extent: The largest coordinate on both sides of the origin, one for each direction or one
            for both; in units of the directions.
        points: Points along each direction, or along both.
        origin: `"weights"` for those that the model has; `"zero"` to set the variables that a
            direction moves to zero there. Others stay as they are.
        sample_weight: Weights of the examples as `fit` takes them, or None.

    Returns:
        The coordinates, and E as Keras reports it, without regularisers.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, `y` is missing, or an argument does not fit.
    """
    check_built(model)
    batch = Examples.of(x, y, sample_weight)
    batch.require_targets()
    variables = list(model.trainable_variables)
    moves = _checked(directions, variables)
    check_choice("origin", origin, ("weights", "zero"))
    first, second = (
        np.linspace(-float(size), float(size), count)
        for size, count in zip(_pair(extent), _counts(points), strict=True)
    )
    starts = [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
    centres = [
        np.zeros_like(start) if origin == "zero" and any(m[i] is not None for m in moves) else start
        for i, start in enumerate(starts)
    ]
    moved = [i for i in range(len(variables)) if any(m[i] is not None for m in moves)]
    outputs = model(x, training=False)
    compiled = built_loss(loss, y, outputs)

    @tf.function(autograph=False)
    def objective() -> tf.Tensor:
        return batch.value(compiled, model(x, training=False))

    values = np.empty((len(first), len(second)))
    try:
        for i in follow(range(len(first)), len(first), "error surface, rows"):
            for j in range(len(second)):
                for k in moved:
                    steps = (
                        scale * move[k]
                        for scale, move in zip((first[i], second[j]), moves, strict=True)
                        if move[k] is not None
                    )
                    variables[k].assign(sum(steps, centres[k]))
                values[i, j] = float(objective())
    finally:
        for variable, start in zip(variables, starts, strict=True):
            variable.assign(start)
    return ErrorSurface(first, second, values)


def _checked(directions: Any, variables: Sequence[Any]) -> list[list[Any]]:
    """Both directions as arrays.

    Raises:
        ValueError: If they are not two, do not fit the variables, or move nothing.
    """
    if len(directions) != 2:
        raise ValueError(f"`directions` must be two, U and V, received {len(directions)}.")
    found = []
    expected = [tuple(variable.shape) for variable in variables]
    for number, direction in enumerate(directions):
        arrays = [None if piece is None else np.asarray(piece) for piece in direction]
        shapes = [None if a is None else a.shape for a in arrays]
        fits = len(shapes) == len(expected) and all(
            shape in (None, other) for shape, other in zip(shapes, expected, strict=True)
        )
        if not fits or all(shape is None for shape in shapes):
            raise ValueError(
                f"`directions[{number}]` must have an array, or None, for each of "
                f"model.trainable_variables, shaped like {expected}, and at least one array; "
                f"received {shapes}."
            )
        found.append(arrays)
    return found


def _pair(extent: Any) -> tuple[float, float]:
    pair = tuple(extent) if isinstance(extent, (tuple, list)) else (extent, extent)
    if len(pair) != 2:
        raise ValueError(f"`extent` must be a positive number or two, received {extent!r}.")
    for size in pair:
        check_number("extent", size, POSITIVE, optional=False)
    return pair


def _counts(points: Any) -> tuple[int, int]:
    pair = tuple(points) if isinstance(points, (tuple, list)) else (points, points)
    if len(pair) != 2:
        raise ValueError(f"`points` must be a whole number or two, received {points!r}.")
    for count in pair:
        check_count("points", count, low=2)
    return pair
