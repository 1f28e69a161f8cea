"""Operations of a functional graph that are no layers: `x + y`, `keras.ops.tanh(x)`, `x[:, 0]`.

Each is an object of a class of its own, which can be swapped for one that records, as a layer's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

# Keras' functional model has no public class.
from keras.src.models.functional import Functional

from tf_kfgn.layers.opaque import is_floating, recorded_call, subclass
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation

_KERAS = "keras.src.ops."
_LINEAR = {
    "Add", "Concatenate", "Cumsum", "Diff", "ExpandDims", "Flip", "GetItem", "Mean", "Moveaxis",
    "Negative", "Pad", "Repeat", "Reshape", "Roll", "Split", "Squeeze", "Stack", "Subtract", "Sum",
    "Swapaxes", "Tile", "Transpose", "Unstack",
}  # fmt: skip
_ELEMENTWISE = {
    "Abs", "Absolute", "Arctan", "Cast", "Celu", "Clip", "Cos", "Divide", "Elu", "Erf", "Exp",
    "Expm1", "Gelu", "HardShrink", "HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu", "Log",
    "Log1p", "LogSigmoid", "Maximum", "Minimum", "Multiply", "Power", "Reciprocal", "Relu",
    "Relu6", "Rsqrt", "Selu", "Sigmoid", "Silu", "Sin", "SoftShrink", "Softplus", "Softsign",
    "SparsePlus", "SparseSigmoid", "Sqrt", "Square", "Squareplus", "Tanh", "TanhShrink",
    "Threshold", "TrueDivide",
}  # fmt: skip


class _Recorded:
    """Marks the class of an operation that records itself; the stock class comes after it."""


def graph_operations(layers: Sequence[keras.layers.Layer]) -> Iterator[Any]:
    """The operations of the functional models among some layers, each once."""
    seen: set[int] = set()
    for layer in layers:
        for operation in layer.operations if isinstance(layer, Functional) else []:
            if not isinstance(operation, keras.layers.Layer) and id(operation) not in seen:
                seen.add(id(operation))
                yield operation


def record_operation(operation: Any) -> None:
    """Let an operation record itself on an active tape, in place."""
    if not isinstance(operation, _Recorded):
        stock: Any = type(operation)
        operation.__class__ = _recording_class(stock)


def stop_operation(operation: Any) -> None:
    """Undo `record_operation`."""
    if isinstance(operation, _Recorded):
        operation.__class__ = _stock_class(operation)


def _stock_class(operation: _Recorded) -> type:
    bases = type(operation).__mro__
    return bases[bases.index(_Recorded) + 1]


@functools.cache
def _recording_class(stock: Any) -> type:
    """The recording subclass of an operation's class; the same one with every call."""

    @functools.wraps(stock.call)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        places = _inputs(self, args, kwargs)
        if not places:
            return stock.call(self, *args, **kwargs)
        return recorded_call(self, stock, args, kwargs, places, functools.partial(_kind, self))

    return subclass(stock, _Recorded, call=call)


def _inputs(operation: Any, args: Any, kwargs: Any) -> list[int]:
    """Which of the flattened arguments are floating tensors of the graph, not constants.

    None if the operation does not keep the examples apart, as far as shapes and axes tell.
    """
    symbols = _symbols(operation)
    if _meets_batch_axis(operation):
        return []
    leaves = tf.nest.flatten((args, kwargs))
    if len(symbols) != len(leaves):  # called by hand, in another way than in the graph
        return []
    places = [i for i, s in enumerate(symbols) if s is not None and is_floating(leaves[i])]
    outputs = operation._inbound_nodes[0].output_tensors
    ends = [*(symbols[index] for index in places), *outputs]
    batches = {end.shape[0] if len(end.shape) else -1 for end in ends}
    return places if len(batches) == 1 else []


def _meets_batch_axis(operation: Any) -> bool:
    """Whether an operation along some axes, as a mean, is one along the batch."""
    if not hasattr(operation, "axis") or type(operation).__name__ == "Squeeze":
        return False
    if operation.axis is None:
        return True
    node = operation._inbound_nodes[0]
    rank = max(len(tensor.shape) for tensor in (*node.input_tensors, *node.output_tensors))
    return any(axis in (0, -rank) for axis in tf.nest.flatten(operation.axis))


def _symbols(operation: Any) -> list[Any]:
    """The tensors of the graph among an operation's flattened arguments; None for others."""
    given = operation._inbound_nodes[0].arguments
    leaves = tf.nest.flatten((given.args, given.kwargs))
    return [leaf if isinstance(leaf, keras.KerasTensor) else None for leaf in leaves]


def _kind(operation: Any, inputs: list[tf.Tensor], output: tf.Tensor) -> type[Operation]:
    """The cheapest rule that fits."""
    stock = _stock_class(operation)
    if not stock.__module__.startswith(_KERAS):
        return Operation
    symbols = [symbol for symbol in _symbols(operation) if symbol is not None]
    any_batch = all(symbol.shape[0] is None for symbol in symbols if len(symbol.shape))
    if stock.__name__ in _LINEAR and any_batch and len(symbols) == len(inputs):
        return LinearOperation
    shapes = [tensor.shape[1:] for tensor in (*inputs, output)]
    alike = all(shape.is_fully_defined() and shape == shapes[0] for shape in shapes)
    return ElementwiseOperation if stock.__name__ in _ELEMENTWISE and alike else Operation
