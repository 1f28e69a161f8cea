"""Operations of a functional graph that are not layers: `x + y`, `keras.ops.tanh(x)`, `x[:, 0]`.

Each is an object of a class of its own, which is swapped for one that records, as a layer's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.graphs import first_call, is_stock_operation
from tf_kfgn._keras.models import Functional
from tf_kfgn.layers.call_template import CallOutput, RecordsCall, is_input
from tf_kfgn.operations.diagonal import DiagonalOperation
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.swapping.swap import Role, stock_class

_LINEAR = {
    "Add", "Concatenate", "Cumsum", "Diff", "ExpandDims", "Flip", "GetItem", "Mean", "Moveaxis",
    "Negative", "Pad", "Repeat", "Reshape", "Roll", "Split", "Squeeze", "Stack", "Subtract", "Sum",
    "Swapaxes", "Tile", "Transpose", "Unstack",
}  # fmt: skip
_SUMS = {"Add", "Negative", "Subtract"}
_ELEMENTWISE = {
    "Abs", "Absolute", "Arctan", "Cast", "Celu", "Clip", "Cos", "Divide", "Elu", "Erf", "Exp",
    "Expm1", "Gelu", "HardShrink", "HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu", "Log",
    "Log1p", "LogSigmoid", "Maximum", "Minimum", "Multiply", "Power", "Reciprocal", "Relu",
    "Relu6", "Rsqrt", "Selu", "Sigmoid", "Silu", "Sin", "SoftShrink", "Softplus", "Softsign",
    "SparsePlus", "SparseSigmoid", "Sqrt", "Square", "Squareplus", "Tanh", "TanhShrink",
    "Threshold", "TrueDivide",
}  # fmt: skip


class RecordedGraphOperation(RecordsCall):
    """Mixin for the class of an operation that records itself; the stock class comes after it."""

    def recorded_inputs(self, leaves: list[Any]) -> list[int]:
        """Which of the flattened arguments are floating tensors of the graph, not constants.

        None if the operation does not keep the examples apart, as far as shapes and axes tell.
        """
        symbols = _symbols(self)
        # Other leaves: called by hand, in another way than in the graph.
        if _meets_batch_axis(self) or len(symbols) != len(leaves):
            return []
        places = [i for i, s in enumerate(symbols) if s is not None and is_input(leaves[i])]
        ends = [*(symbols[index] for index in places), *first_call(self).outputs]
        batches = {end.shape[0] if len(end.shape) else -1 for end in ends}
        return places if len(batches) == 1 else []

    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        """An operation of the kind with the cheapest rule that fits."""
        del args, kwargs
        return _kind(self, result.inputs, result.output)(self, *result)


GRAPH_OPERATIONS = Role(RecordedGraphOperation)


def graph_operations(layers: Sequence[keras.layers.Layer]) -> Iterator[Any]:
    """The operations of the functional models among some layers, each once."""
    seen: set[int] = set()
    for layer in layers:
        for operation in layer.operations if isinstance(layer, Functional) else []:
            if not isinstance(operation, keras.layers.Layer) and id(operation) not in seen:
                seen.add(id(operation))
                yield operation


def _meets_batch_axis(operation: Any) -> bool:
    """Whether an operation along some axes, as a mean, is one along the batch."""
    if not hasattr(operation, "axis") or stock_class(type(operation)).__name__ == "Squeeze":
        return False
    if operation.axis is None:
        return True
    call = first_call(operation)
    rank = max(len(tensor.shape) for tensor in (*call.inputs, *call.outputs))
    return any(axis in (0, -rank) for axis in tf.nest.flatten(operation.axis))


def _symbols(operation: Any) -> list[Any]:
    """The tensors of the graph among an operation's flattened arguments; None for others."""
    call = first_call(operation)
    leaves = tf.nest.flatten((call.args, call.kwargs))
    return [leaf if isinstance(leaf, keras.KerasTensor) else None for leaf in leaves]


def _kind(operation: Any, inputs: list[tf.Tensor], output: tf.Tensor) -> type[Operation]:
    """The cheapest rule that fits."""
    stock = stock_class(type(operation))
    if not is_stock_operation(stock):
        return Operation
    symbols = [symbol for symbol in _symbols(operation) if symbol is not None]
    shapes = [tensor.shape[1:] for tensor in (*inputs, output)]
    alike = all(shape.is_fully_defined() and shape == shapes[0] for shape in shapes)
    any_batch = all(symbol.shape[0] is None for symbol in symbols if len(symbol.shape))
    if stock.__name__ in _LINEAR and any_batch and len(symbols) == len(inputs):
        return DiagonalOperation if stock.__name__ in _SUMS and alike else LinearOperation
    return ElementwiseOperation if stock.__name__ in _ELEMENTWISE and alike else Operation
