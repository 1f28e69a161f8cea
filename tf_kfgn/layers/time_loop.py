"""A step repeated over time, as one `tf.while_loop`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Tensors = Sequence[tf.Tensor]

# The time, what is given at that time and what is carried on, to what is carried on and is kept.
Step = Callable[[tf.Tensor, Tensors, Tensors], tuple[Tensors, Tensors]]


def over_time(
    step: Step,
    given: Tensors,
    carried: Tensors,
    kept: Sequence[tf.TensorSpec],
    *,
    backwards: bool = False,
    recorded: bool = False,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Repeat a step.

    Args:
        step: What is repeated.
        given: Shape `(steps, batch_size, columns)` each.
        carried: What the first step starts from.
        kept: Shape and type of each tensor that a step keeps.
        backwards: Whether to start at the last time.
        recorded: Whether a tape records the loop. A slice of what is given costs nothing, but its
            gradient is as large as the whole.

    Returns:
        What the last step carries on, and what all have kept, stacked in the order of time.
    """
    static = given[0].shape[0]
    steps = tf.shape(given[0])[0] if static is None else static
    arrays = [tf.TensorArray(x.dtype, size=steps).unstack(x) for x in given] if recorded else None
    stores = [tf.TensorArray(spec.dtype, size=steps, element_shape=spec.shape) for spec in kept]

    shapes = [tensor.shape for tensor in carried]

    def body(count: tf.Tensor, stores: Any, carried: Any) -> tuple[Any, ...]:
        time = steps - 1 - count if backwards else count
        read = [x[time] for x in given] if arrays is None else [x.read(time) for x in arrays]
        on, keeps = step(time, read, carried)
        for new, shape in zip(on, shapes, strict=True):
            new.set_shape(shape)  # which a gradient inside of the step may not know
        written = [store.write(time, tensor) for store, tensor in zip(stores, keeps, strict=True)]
        return count + 1, written, list(on)

    _, stores, last = tf.while_loop(
        lambda count, *_: count < steps,
        body,
        (tf.constant(0), stores, list(carried)),
        maximum_iterations=steps,  # XLA needs it for the gradient
    )
    return list(last), [store.stack() for store in stores]


def where_counted(
    counts: tf.Tensor | None, time: tf.Tensor | int, new: Tensors, old: Tensors
) -> list[tf.Tensor]:
    """The new tensors where the step at a time counts, else the old ones.

    Args:
        counts: Booleans of shape `(steps, batch_size, 1)`, or None if all steps count.
        time: Which step.
        new: Shape `(batch_size, columns)` each.
        old: Shaped like them.
    """
    if counts is None:
        return list(new)
    return [tf.where(counts[time], n, o) for n, o in zip(new, old, strict=True)]


def spec_of(tensor: tf.Tensor) -> tf.TensorSpec:
    """Shape and type of a tensor that is carried on."""
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def spec_of_step(tensor: tf.Tensor) -> tf.TensorSpec:
    """Shape and type of what is given to one step of a tensor that is given."""
    return tf.TensorSpec(tensor.shape[1:], tensor.dtype)
