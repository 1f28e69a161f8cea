"""Patches: what a kernel meets at each position of its output.

Everything here has the channels last, and is exact: values are moved, never multiplied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_kfgn.operations.axis_maps import AxisMaps
from tf_kfgn.operations.features import num_features
from tf_kfgn.operations.patch_moments import patch_products


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel moves along one spatial axis.

    At position o of the output its tap k meets position `starts[k] + o * stride` of the input, or
    zero where there is none.

    Attributes:
        starts: Where each tap is for the first position of the output.
        stride: Steps of the input between two positions of the output.
        positions: Number of positions of the output.
        spacing: Distance that the input's values are moved to first, with zeros between them.
    """

    starts: tuple[int, ...]
    stride: int
    positions: int
    spacing: int = 1

    def positions_met(self, size: int) -> np.ndarray:
        """Ones where a tap meets a position of an input of that size, `(taps, positions, size)`."""
        places = np.array(self.starts)[:, None] + self.stride * np.arange(self.positions)
        return np.float64(places[..., None] == self.spacing * np.arange(size))

    def patches(self, inputs: tf.Tensor, axis: int) -> tf.Tensor:
        """Inputs of shape `(..., size, ..., features)` as `(..., positions, ..., taps * features)`.

        Args:
            inputs: Tensor whose features come last.
            axis: The axis that the kernel moves along.
        """
        inputs = _spaced(inputs, axis, self.spacing)
        before = max(-min(self.starts), 0)
        strides = self.positions + (before + max(self.starts)) // self.stride
        after = max(strides * self.stride - before - inputs.shape[axis], 0)
        inputs = _padded(inputs, axis, before, after)
        # A slice with a step is slow; one of whole strides, at one place in each, is not.
        apart = _in_strides(inputs, axis, self.stride)
        pieces = []
        for start in self.starts:
            first, place = divmod(before + start, self.stride)
            taken = (slice(first, first + self.positions), place)
            pieces.append(apart[(slice(None),) * axis + taken])
        return pieces[0] if len(pieces) == 1 else tf.concat(pieces, axis=-1)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How the kernel of a convolution moves over its input, in the terms of Keras.

    Attributes:
        kernel_size: Taps along each spatial axis.
        strides: Steps along each spatial axis.
        dilation_rate: Distance of two taps along each spatial axis.
        padding: `"valid"`, `"same"` or `"causal"`.
        data_format: `"channels_last"` or `"channels_first"`.
        transposed: Whether the convolution is the transpose of the one described.
    """

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    padding: str
    data_format: str
    transposed: bool = False

    def patches(self, inputs: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
        """What the kernel meets, in the order of the kernel's own axes.

        Args:
            inputs: Input of the convolution.
            output: Its output, of which only the shape counts.

        Returns:
            Shape `(batch_size, *positions, taps * channels)`.

        Raises:
            ValueError: If a spatial axis has no static length.
        """
        return self._patches(inputs, output, range(len(self.kernel_size)))

    def patch_products(self, inputs: tf.Tensor, output: tf.Tensor, *, ones: bool) -> tf.Tensor:
        """The sum of the outer products of all patches, without most of the patches.

        Args:
            inputs: As for `patches`, of a kernel that `shares_patches`.
            output: As for `patches`.
            ones: Whether each patch ends with a 1.

        Returns:
            Shape `(taps * channels [+ 1], taps * channels [+ 1])`.
        """
        rows = self._patches(inputs, output, range(1, len(self.kernel_size)))
        size, features = rows.shape[1], rows.shape[-1]
        axis_first = tf.transpose(rows, (1, 0, *range(2, rows.shape.rank)))
        rows = tf.reshape(axis_first, (size, -1, features))
        window = self._window(0, size, self.spatial_shape(output)[0])
        return patch_products(rows, window.starts, window.positions, ones=ones)

    def patch_sums(self, inputs: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
        """The sum of the patches at all positions of each example, without the patches.

        Args:
            inputs: As for `patches`.
            output: As for `patches`.

        Returns:
            Shape `(batch_size, taps * channels)`.
        """
        sums = self.channels_last(inputs)
        last = sums.shape.rank - 1
        for axis, met in enumerate(self.axis_maps(inputs, output).axes, start=1):
            counts = tf.constant(met.sum(axis=1), sums.dtype)  # how often a tap meets a place
            sums = tf.tensordot(sums, counts, [[axis], [1]])
            sums = tf.transpose(sums, (*range(axis), last, *range(axis, last)))
        return tf.reshape(sums, (-1, sums.shape[1:].num_elements()))

    @property
    def shares_patches(self) -> bool:
        """Whether patches at neighbouring positions along the first axis hold the same values."""
        return self.kernel_size[0] > 1 and self.strides[0] == 1 and not self.transposed

    def axis_maps(self, inputs: tf.Tensor, output: tf.Tensor) -> AxisMaps:
        """Which positions each tap of the kernel joins; arguments as of `patches`."""
        ends = zip(self.spatial_shape(inputs), self.spatial_shape(output), strict=True)
        return AxisMaps(
            [self._window(axis, *sizes).positions_met(sizes[0]) for axis, sizes in enumerate(ends)]
        )

    def channels_last(self, tensor: tf.Tensor) -> tf.Tensor:
        """A tensor of the convolution's data format as `(batch_size, *spatial, channels)`."""
        if self.data_format == "channels_last":
            return tensor
        rank = tensor.shape.rank
        return tf.transpose(tensor, (0, *range(2, rank), 1))

    def own_format(self, tensor: tf.Tensor) -> tf.Tensor:
        """The inverse of `channels_last`."""
        if self.data_format == "channels_last":
            return tensor
        rank = tensor.shape.rank
        return tf.transpose(tensor, (0, rank - 1, *range(1, rank - 1)))

    def spatial_shape(self, tensor: tf.Tensor) -> Sequence[int]:
        """Lengths of the spatial axes of a tensor in the convolution's data format."""
        shape = tensor.shape[1:-1] if self.data_format == "channels_last" else tensor.shape[2:]
        return shape.as_list()

    @property
    def spans(self) -> list[int]:
        """Distance from the first to the last tap along each spatial axis."""
        return [
            (taps - 1) * distance
            for taps, distance in zip(self.kernel_size, self.dilation_rate, strict=True)
        ]

    def _patches(self, inputs: tf.Tensor, output: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
        """Patches along some of the spatial axes, ascending; the last one varies fastest."""
        for tensor in (inputs, output):
            num_features(tensor)
        patches = self.channels_last(inputs)
        sizes = self.spatial_shape(output)
        for axis in reversed(axes):
            window = self._window(axis, patches.shape[axis + 1], sizes[axis])
            patches = window.patches(patches, axis + 1)
        return patches

    def _window(self, axis: int, size: int, positions: int) -> Window:
        taps, stride = self.kernel_size[axis], self.strides[axis]
        distance = self.dilation_rate[axis]
        ends = (positions, size) if self.transposed else (size, positions)
        before = _padding_before(self.padding, *ends, self.spans[axis], stride)
        if self.transposed:  # a convolution over the spaced input, its kernel turned round
            starts = tuple(before - tap * distance for tap in range(taps))
            return Window(starts, 1, positions, spacing=stride)
        starts = tuple(tap * distance - before for tap in range(taps))
        return Window(starts, stride, positions)


def _padding_before(padding: str, size: int, positions: int, span: int, stride: int) -> int:
    """Zeros that TensorFlow puts before an axis of a (not transposed) convolution's input.

    Args:
        padding: `"valid"`, `"same"` or `"causal"`.
        size: Length of the input.
        positions: Length of the output.
        span: Distance from the first to the last tap.
        stride: Steps of the input between two positions.
    """
    if padding == "valid":
        return 0
    if padding == "causal":
        return span
    return max((positions - 1) * stride + span + 1 - size, 0) // 2


def _padded(inputs: tf.Tensor, axis: int, before: int, after: int) -> tf.Tensor:
    """Zeros before and after an axis."""
    if before == after == 0:
        return inputs
    paddings = [(0, 0)] * inputs.shape.rank
    paddings[axis] = (before, after)
    return tf.pad(inputs, paddings)


def _spaced(inputs: tf.Tensor, axis: int, spacing: int) -> tf.Tensor:
    """Each value along an axis, followed by `spacing - 1` zeros."""
    if spacing == 1:
        return inputs
    apart = _padded(tf.expand_dims(inputs, axis + 1), axis + 1, 0, spacing - 1)
    shape = inputs.shape.as_list()
    shape[axis] *= spacing
    return tf.reshape(apart, [-1, *shape[1:]])


def _in_strides(inputs: tf.Tensor, axis: int, stride: int) -> tf.Tensor:
    """An axis split into whole strides and the places in each; what is left over is cut off."""
    shape = inputs.shape.as_list()
    strides = shape[axis] // stride
    whole = inputs[(slice(None),) * axis + (slice(strides * stride),)]
    return tf.reshape(whole, [-1, *shape[1:axis], strides, stride, *shape[axis + 1 :]])
