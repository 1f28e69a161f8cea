"""Layers that merge several tensors of one example into one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.recording.active import active_tape
from tf_kfgn.recording.tape import CurvatureTape


class _Merging(Recording):
    """Records the whole call of a merging layer."""

    def call(self: Any, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        tape = active_tape()
        if tape is None or not _same_examples(inputs):
            return self.stock_call(inputs)
        inputs = self.prepared(tape, list(inputs))
        floating = [index for index, t in enumerate(inputs) if t.dtype.is_floating]
        sources = [inputs[index] for index in floating]
        tape.watch(sources)
        outputs = self.stock_call(inputs)
        if sources and all(outputs is not tensor for tensor in inputs):
            merged = functools.partial(self._merged, inputs, floating)
            # An integer input is a constant of each example, so its map differs among them.
            kind = self.operation(inputs, outputs) if len(sources) == len(inputs) else Operation
            tape.record(kind(self, sources, outputs, merged))
        return outputs

    def prepared(self, tape: CurvatureTape, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """The inputs as the recorded operation takes them."""
        del tape
        return inputs

    def operation(self, inputs: list[tf.Tensor], outputs: tf.Tensor) -> Callable[..., Operation]:
        """The kind of operation to record for floating inputs."""
        del inputs, outputs
        return Operation

    def _merged(
        self, inputs: list[tf.Tensor], floating: list[int], *tensors: tf.Tensor
    ) -> tf.Tensor:
        """The stock computation, as a function of the floating inputs one by one."""
        given = list(inputs)
        for index, tensor in zip(floating, tensors, strict=True):
            given[index] = _with_mask_of(inputs[index], tensor)
        return self.stock_call(given)


class _LinearMerging(_Merging):
    """A merging layer that is linear in all inputs together."""

    def operation(self, inputs: list[tf.Tensor], outputs: tf.Tensor) -> Callable[..., Operation]:
        """See `_Merging.operation`."""
        del inputs, outputs
        return LinearOperation


class _ElementwiseMerging(_Merging):
    """A merging layer whose every output depends on one place of each input."""

    def prepared(self, tape: CurvatureTape, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """See `_Merging.prepared`: smaller inputs are repeated, as an operation of its own."""
        if not all(t.shape[1:].is_fully_defined() and t.dtype.is_floating for t in inputs):
            return inputs
        rank = max(tensor.shape.rank for tensor in inputs)
        shape = tf.TensorShape([])
        for tensor in inputs:
            shape = tf.broadcast_static_shape(shape, _features(tensor, rank))
        return [self._repeated(tape, tensor, shape) for tensor in inputs]

    def operation(self, inputs: list[tf.Tensor], outputs: tf.Tensor) -> Callable[..., Operation]:
        """See `_Merging.operation`."""
        shapes = [tuple(tensor.shape[1:]) for tensor in (*inputs, outputs)]
        alike = None not in shapes[0] and len(set(shapes)) == 1
        return ElementwiseOperation if alike else Operation

    def _repeated(self, tape: CurvatureTape, tensor: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
        if tensor.shape[1:] == shape:
            return tensor

        def repeat(tensor: tf.Tensor) -> tf.Tensor:
            count = tf.shape(tensor)[0]
            expanded = tf.reshape(tensor, (count, *_features(tensor, 1 + shape.rank)))
            return tf.broadcast_to(expanded, (count, *shape))

        wide = repeat(tensor)
        tape.record(LinearOperation(self, tensor, wide, repeat))
        # Keras drops the mask itself where it adds axes.
        return _with_mask_of(tensor, wide) if tensor.shape.rank == wide.shape.rank else wide


def _features(tensor: tf.Tensor, rank: int) -> tf.TensorShape:
    """Feature axes of a tensor, with axes of length 1 before them up to a rank, as Keras adds."""
    return tf.TensorShape([1] * (rank - tensor.shape.rank)) + tensor.shape[1:]


def _same_examples(inputs: Sequence[tf.Tensor]) -> bool:
    """Whether no input stands for all examples at once, as far as shapes tell."""
    counts = {tensor.shape[0] for tensor in inputs}
    return 1 not in counts or len(counts) == 1


def _with_mask_of(source: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """A tensor with the Keras mask of another, which `Maximum` and `Minimum` compute with."""
    mask = getattr(source, "_keras_mask", None)
    if mask is not None:
        tensor._keras_mask = mask
    return tensor


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Add(_LinearMerging, keras.layers.Add):
    """`keras.layers.Add` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Average(_LinearMerging, keras.layers.Average):
    """`keras.layers.Average` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Concatenate(_LinearMerging, keras.layers.Concatenate):
    """`keras.layers.Concatenate` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Dot(_Merging, keras.layers.Dot):
    """`keras.layers.Dot` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Maximum(_ElementwiseMerging, keras.layers.Maximum):
    """`keras.layers.Maximum` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Minimum(_ElementwiseMerging, keras.layers.Minimum):
    """`keras.layers.Minimum` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Multiply(_ElementwiseMerging, keras.layers.Multiply):
    """`keras.layers.Multiply` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Subtract(_LinearMerging, keras.layers.Subtract):
    """`keras.layers.Subtract` that records itself on an active tape."""
