"""Any other layer: recorded as a whole, with the exact rule for its averages.

A layer without a recording class of its own gets a subclass made for it. Its weights, if it has
any, have diagonal blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

# Keras keeps the names of registered classes here and has no public way to add another class.
from keras.src.saving.object_registration import GLOBAL_CUSTOM_NAMES

from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.operation import Operation
from tf_kfgn.recording.active import active_tape, no_operations


class OpaqueOperation(Operation):
    """What a layer does of which nothing is known, nor whether its gradient can be vectorised."""

    vectorisable = False


# Layers that run others inside a loop, where no operation can be recorded.
LOOPS = (keras.layers.RNN, keras.layers.Bidirectional)


@functools.cache
def opaque_class(stock: Any) -> type[keras.layers.Layer]:
    """The recording subclass of any layer class; the same one with every call."""

    @functools.wraps(stock.call)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        leaves = tf.nest.flatten((args, kwargs))
        places = [index for index, leaf in enumerate(leaves) if is_floating(leaf)]
        return recorded_call(self, stock, args, kwargs, places)

    return subclass(stock, Recording, call=call)


def subclass(stock: Any, mixin: type, **methods: Callable[..., Any]) -> Any:
    """A subclass of a layer or operation that files and messages take for the stock class.

    Args:
        stock: The class.
        mixin: A base that comes before it.
        **methods: Its new methods.
    """
    module = stock.__module__
    namespace = {
        "__module__": "keras.layers" if module.startswith("keras.src.layers") else module,
        "__qualname__": stock.__qualname__,
        "__doc__": stock.__doc__,
        **methods,
    }
    made = type(stock.__name__, (mixin, stock), namespace)
    if stock in GLOBAL_CUSTOM_NAMES:
        GLOBAL_CUSTOM_NAMES[made] = GLOBAL_CUSTOM_NAMES[stock]  # files name the stock class
    return made


def recorded_call(
    layer: Any,
    stock: Any,
    args: Any,
    kwargs: Any,
    places: Sequence[int],
    kind: Callable[[list[tf.Tensor], tf.Tensor], type[Operation]] = lambda *_: OpaqueOperation,
) -> Any:
    """Call the stock class; inside a tape, record one operation for each of the outputs.

    Args:
        layer: What is called.
        stock: Its stock class.
        args: Arguments of its `call`.
        kwargs: Keyword arguments of its `call`.
        places: Which of the flattened arguments are inputs.
        kind: The operation to record, from inputs and output.
    """
    tape = active_tape()
    if tape is None:
        return stock.call(layer, *args, **kwargs)
    leaves = tf.nest.flatten((args, kwargs))
    inputs = [leaves[index] for index in places]

    def function(output: int, *tensors: tf.Tensor) -> tf.Tensor:
        given = list(leaves)
        for index, tensor in zip(places, tensors, strict=True):
            given[index] = tensor
        new_args, new_kwargs = tf.nest.pack_sequence_as((args, kwargs), given)
        return tf.nest.flatten(stock.call(layer, *new_args, **new_kwargs))[output]

    function = tape.repeating(function)
    tape.watch(inputs)
    with no_operations():
        outputs = stock.call(layer, *args, **kwargs)
    for index, output in enumerate(tf.nest.flatten(outputs)):
        if inputs and is_floating(output) and all(output is not tensor for tensor in inputs):
            again = functools.partial(function, index)
            tape.record(kind(inputs, output)(layer, inputs, output, again))
    return outputs


def is_floating(leaf: Any) -> bool:
    """Whether an argument or output is a floating tensor with a batch axis."""
    return tf.is_tensor(leaf) and leaf.dtype.is_floating and bool(leaf.shape.rank)
