"""Layers that merge several tensors of one example into one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn._keras.layers import mask_of, with_mask
from tf_kfgn.layers.call_template import CallOutput
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.concatenation import ConcatenationOperation
from tf_kfgn.operations.diagonal import DiagonalOperation
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.spatial import SpatialOperation
from tf_kfgn.recording.tape import CurvatureTape


class _Merging(Recording):
    """A layer that merges what it is given."""

    @override
    def recorded_call(self, tape: CurvatureTape, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        if not _same_examples(inputs):
            return self.stock_call(inputs)
        return super().recorded_call(tape, self.prepared(tape, list(inputs)))

    def prepared(self, tape: CurvatureTape, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """The inputs as the recorded operation takes them."""
        del tape
        return inputs

    @override
    def recorded_operation(
        self, result: CallOutput, inputs: Sequence[tf.Tensor] = (), **kwargs: Any
    ) -> Operation:
        # An integer input is a constant of each example, so its map differs among them.
        kind = self.kind(result) if len(result.inputs) == len(inputs) else Operation
        return kind(self, *result)

    def kind(self, result: CallOutput) -> Callable[..., Operation]:
        """What makes the operation to record where all inputs are floating."""
        del result
        return Operation


class _LinearMerging(_Merging):
    """A merging layer that adds its inputs, with a factor each."""

    @override
    def kind(self, result: CallOutput) -> Callable[..., Operation]:
        if not _all_alike(result):
            return LinearOperation
        scales = self.scales(len(result.inputs))
        return functools.partial(DiagonalOperation, scales=lambda: scales)

    def scales(self, count: int) -> list[float]:
        """The factor of each input.

        Args:
            count: Number of inputs.
        """
        return [1.0] * count


class _ElementwiseMerging(_Merging):
    """A merging layer whose every output depends on one place of each input."""

    def prepared(self, tape: CurvatureTape, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """Smaller inputs are repeated, as an operation of its own."""
        if not all(t.shape[1:].is_fully_defined() and t.dtype.is_floating for t in inputs):
            return inputs
        rank = max(tensor.shape.rank for tensor in inputs)
        shape = tf.TensorShape([])
        for tensor in inputs:
            shape = tf.broadcast_static_shape(shape, _features(tensor, rank))
        return [self._repeated(tape, tensor, shape) for tensor in inputs]

    @override
    def kind(self, result: CallOutput) -> Callable[..., Operation]:
        return ElementwiseOperation if _all_alike(result) else Operation

    def _repeated(self, tape: CurvatureTape, tensor: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
        if tensor.shape[1:] == shape:
            return tensor

        def repeat(tensor: tf.Tensor) -> tf.Tensor:
            count = tf.shape(tensor)[0]
            expanded = tf.reshape(tensor, (count, *_features(tensor, 1 + shape.rank)))
            return tf.broadcast_to(expanded, (count, *shape))

        wide = repeat(tensor)
        tape.record(_repetition(self, tensor, wide, repeat))
        # Keras drops the mask itself where it adds axes.
        return with_mask(wide, mask_of(tensor)) if tensor.shape.rank == wide.shape.rank else wide


def _all_alike(result: CallOutput) -> bool:
    """Whether all ends have the same static features."""
    shapes = [tuple(tensor.shape[1:]) for tensor in (*result.inputs, result.output)]
    return None not in shapes[0] and len(set(shapes)) == 1


def _repetition(layer: Any, tensor: tf.Tensor, wide: tf.Tensor, repeat: Any) -> Operation:
    """What repeats a tensor along axes of length 1; the last axis may be one of them."""
    before = _features(tensor, wide.shape.rank).as_list()
    behind = wide.shape[1:].as_list()
    if before[-1] != behind[-1] or wide.shape.rank < 3:
        return LinearOperation(layer, tensor, wide, repeat)
    pairs = list(zip(before[:-1], behind[:-1], strict=True))

    def maps() -> list[np.ndarray]:
        return [np.eye(size) if old == size else np.ones((size, 1)) for old, size in pairs]

    return SpatialOperation(layer, tensor, wide, repeat, maps=maps)


def _features(tensor: tf.Tensor, rank: int) -> tf.TensorShape:
    """Feature axes of a tensor, with axes of length 1 before them up to a rank, as Keras adds."""
    return tf.TensorShape([1] * (rank - tensor.shape.rank)) + tensor.shape[1:]


def _same_examples(inputs: Sequence[tf.Tensor]) -> bool:
    """Whether no input stands for all examples at once, as far as shapes tell."""
    counts = {tensor.shape[0] for tensor in inputs}
    return 1 not in counts or len(counts) == 1


@register
class Add(_LinearMerging, keras.layers.Add):
    """`keras.layers.Add` that records itself on an active tape."""


@register
class Average(_LinearMerging, keras.layers.Average):
    """`keras.layers.Average` that records itself on an active tape."""

    @override
    def scales(self, count: int) -> list[float]:
        return [1.0 / count] * count


@register
class Concatenate(_Merging, keras.layers.Concatenate):
    """`keras.layers.Concatenate` that records itself on an active tape."""

    @override
    def recorded_operation(
        self, result: CallOutput, inputs: Sequence[tf.Tensor] = (), **kwargs: Any
    ) -> Operation:
        if len(result.inputs) != len(inputs):  # an integer input is a constant of each example
            return Operation(self, *result)
        return ConcatenationOperation(self, *result, axis=self.axis)


@register
class Dot(_Merging, keras.layers.Dot):
    """`keras.layers.Dot` that records itself on an active tape."""


@register
class Maximum(_ElementwiseMerging, keras.layers.Maximum):
    """`keras.layers.Maximum` that records itself on an active tape."""


@register
class Minimum(_ElementwiseMerging, keras.layers.Minimum):
    """`keras.layers.Minimum` that records itself on an active tape."""


@register
class Multiply(_ElementwiseMerging, keras.layers.Multiply):
    """`keras.layers.Multiply` that records itself on an active tape."""


@register
class Subtract(_LinearMerging, keras.layers.Subtract):
    """`keras.layers.Subtract` that records itself on an active tape."""

    @override
    def scales(self, count: int) -> list[float]:
        return [1.0, -1.0]
