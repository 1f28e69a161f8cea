"""Linear operations along spatial axes that do the same to every channel.

Average pooling, padding, cropping, up-sampling, repeating: as `LinearOperation`, and with a rule
for averages over channels alone, which needs a single number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.operations.axis_maps import AxisMaps
from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Ends
from tf_kfgn.operations.windows import pooled_layout


class SpatialOperation(LinearOperation):
    """A linear operation that maps positions alone, axis by axis, in the same way each channel.

    Attributes:
        maps: The map along each axis but the batch and the channels, shape `(outputs, inputs)`.
    """

    def __init__(self, *args: Any, maps: Callable[[], Sequence[np.ndarray]], **kwargs: Any) -> None:
        """Hold the ends as `Operation` does, and what makes the maps when they are needed."""
        super().__init__(*args, **kwargs)
        self._make_maps = maps

    @override
    def output_layout(self, inputs: Sequence[Layout]) -> Layout:
        return pooled_layout(inputs[0], self.input, self.output)

    @override
    def pull_back_channels(
        self, average: tf.Tensor, ends: Ends, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """S times a number."""
        del tape
        maps = self._maps(ends)
        if maps is None:
            return None
        return average * tf.constant(maps.own_weights()[0], average.dtype)

    @override
    def mean_transpose_channels(
        self, columns: tf.Tensor, ends: Ends, other: Layout, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The columns times a number."""
        del tape
        maps = self._maps(ends)
        weights = None if maps is None else maps.cross_weights(other)
        return None if weights is None else columns * tf.constant(weights[0], columns.dtype)

    @override
    def channels_cost(self, ends: Ends, batch_size: int) -> float:
        return 2.0 * ends.output.num_channels**2

    def _maps(self, ends: Ends) -> AxisMaps | None:
        maps = AxisMaps([axis[None] for axis in self._make_maps()])
        [before], behind = ends.inputs, ends.output
        channels = before.num_channels == behind.num_channels
        positions = (before.num_positions, behind.num_positions)
        fitting = positions == (math.prod(maps.inputs), math.prod(maps.outputs))
        return maps if channels and fitting else None
