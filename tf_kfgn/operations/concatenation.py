"""Concatenation: every input keeps its features, one after the other along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Ends


class ConcatenationOperation(LinearOperation):
    """A concatenation along one axis of the features."""

    def __init__(self, *args: Any, axis: int, **kwargs: Any) -> None:
        """Hold the ends as `Operation` does.

        Args:
            *args: As of `Operation`.
            axis: The axis, the batch counted.
            **kwargs: As of `Operation`.
        """
        super().__init__(*args, **kwargs)
        self._axis = axis % self.output.shape.rank - 1

    @override
    def pull_back_channels(
        self, average: tf.Tensor, ends: Ends, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The channels of the output, sorted by inputs."""
        del tape
        order = self._order(ends)
        return None if order is None else tf.gather(tf.gather(average, order), order, axis=1)

    @override
    def mean_transpose_channels(
        self, columns: tf.Tensor, ends: Ends, other: Layout, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The rows, sorted by inputs."""
        del other, tape
        order = self._order(ends)
        return None if order is None else tf.gather(columns, order)

    @override
    def channels_cost(self, ends: Ends, batch_size: int) -> float:
        del batch_size
        return float(ends.output.num_channels**2)

    def _order(self, ends: Ends) -> np.ndarray | None:
        """Where the channels of the inputs are among those of the output; None along positions."""
        behind = ends.output
        own = tuple(self.output.shape[1:].as_list())
        alike = behind.shape == own and all(
            layout.positions == behind.positions
            and layout.shape == tuple(tensor.shape[1:].as_list())
            for layout, tensor in zip(ends.inputs, self.inputs, strict=True)
        )
        if not alike or self._axis in behind.positions:
            return None
        shape = [own[axis] for axis in behind.channels]
        places = np.arange(behind.num_channels).reshape(shape)
        axis = behind.channels.index(self._axis)
        cuts = np.cumsum([tensor.shape[1 + self._axis] for tensor in self.inputs])[:-1]
        return np.concatenate([part.ravel() for part in np.split(places, cuts, axis=axis)])
