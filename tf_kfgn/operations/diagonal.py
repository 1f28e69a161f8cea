"""Linear operations of which every output depends on the same place of each input alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tf_kfgn.numerics.moments import second_moment
from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Ends


class DiagonalOperation(LinearOperation):
    """A sum of inputs in the shape of the output, each scaled in the same way for every example.

    Addition, subtraction, means, batch normalisation with its statistics as constants, rescaling.
    """

    def __init__(
        self, *args: Any, scales: Callable[[], Sequence[Any]] | None = None, **kwargs: Any
    ) -> None:
        """Hold the ends as `Operation` does.

        Args:
            *args: As of `Operation`.
            scales: Makes the scale of each input, numbers that broadcast to the features of one
                example. By default they come from a transpose, of which a graph has more nodes.
            **kwargs: As of `Operation`.
        """
        super().__init__(*args, **kwargs)
        self._make_scales = scales

    @override
    def pull_back_channels(
        self, average: tf.Tensor, ends: Ends, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """S times, elementwise, the mean of `s s^T` over positions, with the scales s."""
        del tape
        if not ends.alike:
            return None
        copies = len(self.inputs)
        return tf.tile(average, (copies, copies)) * second_moment(self._scales(ends, average))

    @override
    def mean_transpose_channels(
        self, columns: tf.Tensor, ends: Ends, other: Layout, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The columns times, elementwise, the mean scale."""
        del other, tape
        if not ends.alike:
            return None
        mean = tf.reduce_mean(self._scales(ends, columns), axis=0)
        return tf.tile(columns, (len(self.inputs), 1)) * mean[:, None]

    def _scales(self, ends: Ends, like: tf.Tensor) -> tf.Tensor:
        """A row for each position, or one for all, with the channels of each input."""
        layout, width = ends.output, sum(self.input_widths) // len(self.inputs)
        if self._make_scales is None:
            scales = self.transpose(tf.ones((1, width), like.dtype))
            parts = tf.split(scales, self.input_widths, axis=1)
            return tf.concat([layout.rows(part)[0] for part in parts], axis=-1)
        own = tuple(self.output.shape[1:].as_list())
        found = [tf.cast(scale, like.dtype) for scale in self._make_scales()]
        shapes = [(*[1] * (len(own) - len(scale.shape)), *scale.shape) for scale in found]
        alike = all(shape[axis] == 1 for shape in shapes for axis in layout.positions)
        if alike and layout.shape == own:
            channels = [size for axis, size in enumerate(own) if axis in layout.channels]
            rows = []
            for scale, shape in zip(found, shapes, strict=True):
                kept = [shape[axis] for axis in layout.channels]
                wide = tf.broadcast_to(tf.reshape(scale, kept), channels)
                rows.append(tf.reshape(wide, (1, layout.num_channels)))
        else:
            rows = [layout.rows(tf.broadcast_to(scale, (1, *own)))[0] for scale in found]
        return tf.concat(rows, axis=-1)

    @override
    def channels_cost(self, ends: Ends, batch_size: int) -> float:
        del batch_size
        inputs = sum(layout.num_channels for layout in ends.inputs)
        return 2.0 * ends.output.num_positions * inputs**2
