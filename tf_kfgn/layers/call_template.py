"""The template of every `call` that records itself: compute, and record if a tape is active."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn._keras.layers import mask_of, with_mask
from tf_kfgn.operations.operation import Operation
from tf_kfgn.recording.active import active_tape, no_operations
from tf_kfgn.swapping.swap import Swapped, stock_class


class CallOutput(NamedTuple):
    """One output of a call, and how it came about.

    Attributes:
        inputs: The floating tensors among the arguments.
        output: The output.
        again: Makes the output once more from such inputs, with the same random numbers.
    """

    inputs: list[tf.Tensor]
    output: tf.Tensor
    again: Callable[..., tf.Tensor]


class RecordsCall(Swapped):
    """Mixin for a class with a `call`: inside a tape each output is recorded as an operation.

    Without a tape the stock `call` runs and nothing else. Inside one there is one policy: floating
    tensors with a batch axis are inputs, which the tape watches; a call without any is not
    recorded. A class whose parts are recorded one by one overrides `recorded_call`; any other one
    overrides `recorded_operation` at most. A class with a `call` of its own records in there.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give a class that has no `call` of its own the template."""
        super().__init_subclass__(**kwargs)
        replace_stock_method(cls, "call", call_and_record)

    def stock_call(self, *args: Any, **kwargs: Any) -> Any:
        """The computation of the stock class, which records nothing."""
        return stock_class(type(self)).call(self, *args, **kwargs)

    def recorded_call(self, tape: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the stock computation as a whole and record an operation for each output.

        Args:
            tape: The active tape.
            *args: The arguments of `call`.
            **kwargs: The keyword arguments of `call`.

        Returns:
            What `call` returns.
        """
        inputs, again = self.watched_inputs(tape, *args, **kwargs)
        if not inputs:
            return self.stock_call(*args, **kwargs)

        def function(index: int, *tensors: tf.Tensor) -> tf.Tensor:
            return again(*tensors)[index]

        with no_operations():
            outputs = self.stock_call(*args, **kwargs)
        for index, output in enumerate(tf.nest.flatten(outputs)):
            if is_input(output) and all(output is not tensor for tensor in inputs):
                result = CallOutput(inputs, output, functools.partial(function, index))
                operation = self.recorded_operation(result, *args, **kwargs)
                if operation is not None:
                    tape.record(operation)
        return outputs

    def watched_inputs(
        self, tape: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[tf.Tensor], Callable[..., list[tf.Tensor]]]:
        """The inputs of a call, which the tape watches, and what makes its outputs from others.

        Args:
            tape: The active tape.
            *args: The arguments of `call`.
            **kwargs: The keyword arguments of `call`, which is to run next.

        Returns:
            The inputs; and a function of such inputs that gives the flattened outputs, with the
            random numbers of the call.
        """
        leaves = tf.nest.flatten((args, kwargs))
        places = self.recorded_inputs(leaves)
        inputs = [leaves[place] for place in places]

        def again(*tensors: tf.Tensor) -> list[tf.Tensor]:
            given = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = with_mask(tensor, mask_of(leaves[place]))
            new_args, new_kwargs = tf.nest.pack_sequence_as((args, kwargs), given)
            outputs: list[tf.Tensor] = tf.nest.flatten(self.stock_call(*new_args, **new_kwargs))
            return outputs

        if inputs:
            tape.watch(inputs)
        return inputs, tape.repeating(again)

    def recorded_inputs(self, leaves: list[Any]) -> list[int]:
        """Which of the flattened arguments of `call` are inputs."""
        return [place for place, leaf in enumerate(leaves) if is_input(leaf)]

    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation | None:
        """The operation to record for one output, or None for none.

        Args:
            result: The output and how it came about.
            *args: The arguments of `call`.
            **kwargs: The keyword arguments of `call`.
        """
        del args, kwargs
        return Operation(self, *result)


def call_and_record(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The stock computation; inside a tape it is recorded."""
    tape = active_tape()
    if tape is None:
        return self.stock_call(*args, **kwargs)
    return self.recorded_call(tape, *args, **kwargs)


def is_input(leaf: Any) -> bool:
    """Whether an argument or output is a floating tensor with a batch axis."""
    return tf.is_tensor(leaf) and leaf.dtype.is_floating and bool(leaf.shape.rank)


def replace_stock_method(cls: Any, name: str, template: Callable[..., Any]) -> None:
    """Put a template in the place of a stock method, under the signature that Keras reads.

    Args:
        cls: A class that stands for a stock class; one with a method of its own is left alone.
        name: Name of the method.
        template: A function with the method's arguments.
    """
    stock = getattr(stock_class(cls), name, None)
    if stock is None or getattr(cls, name) is not stock:
        return

    @functools.wraps(stock)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return template(self, *args, **kwargs)

    setattr(cls, name, method)
