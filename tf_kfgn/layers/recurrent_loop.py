"""The loop of Keras' recurrent layers, once more, with what the weight matrices meet at each step.

Keras' own loop hands neither the pre-activations of its steps out nor the outputs before them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Tensors = Sequence[tf.Tensor]
Step = Callable[[tf.Tensor, Tensors, Tensors], tuple[list[tf.Tensor], list[tf.Tensor]]]
_MaskedStep = Callable[[Tensors, Tensors], tuple[list[tf.Tensor], list[tf.Tensor]]]


class Run(NamedTuple):
    """What a loop over a sequence gives; its steps are in the order of the sequence.

    Attributes:
        after: The first state after each step, `(batch_size, steps, units)`.
        before: The first state before each step, shaped like `after`.
        states: The last states.
        met: What the steps gave besides, `(batch_size, steps, units)`.
    """

    after: tf.Tensor
    before: tf.Tensor
    states: list[tf.Tensor]
    met: list[tf.Tensor]


def run(
    step: Step,
    sequences: tf.Tensor,
    zeros: Tensors,
    states: Tensors,
    mask: tf.Tensor | None = None,
    *,
    num_met: int = 0,
    go_backwards: bool = False,
    unroll: bool = False,
) -> Run:
    """Repeat a step over a sequence.

    Args:
        step: Inputs, states and zeros of one step to its new states and what it gives besides.
        sequences: `(batch_size, steps, features)`.
        zeros: Further inputs, `(batch_size, steps, columns)`.
        states: The initial states, `(batch_size, units)`.
        mask: Which steps count, booleans of shape `(batch_size, steps)`; the others leave the
            states as they are. None if all do.
        num_met: How many tensors a step gives besides, each of the shape of the first state.
        go_backwards: Whether to start at the end.
        unroll: Whether to trace each step for itself.
    """
    given = [tf.transpose(tensor, (1, 0, 2)) for tensor in (sequences, *zeros)]
    if mask is not None:
        given.append(tf.transpose(mask)[..., None])
    if go_backwards:
        given = [tf.reverse(tensor, [0]) for tensor in given]

    def masked_step(read: Tensors, old: Tensors) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        new, met = step(read[0], old, read[1 : 1 + len(zeros)])
        if mask is not None:
            new = [tf.where(read[-1], n, o) for n, o in zip(new, old, strict=True)]
        return new, met

    loop = _unrolled if unroll else _looped
    last, (after, *met) = loop(masked_step, given, states, num_met)
    before = tf.concat([states[0][None], after[:-1]], axis=0)
    if go_backwards:
        after, before, *met = (tf.reverse(tensor, [0]) for tensor in (after, before, *met))
    turned = [tf.transpose(tensor, (1, 0, 2)) for tensor in (after, before, *met)]
    return Run(turned[0], turned[1], last, turned[2:])


def _unrolled(
    step: _MaskedStep, given: Tensors, states: Tensors, num_met: int
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    del num_met
    kept = []
    for read in zip(*(tf.unstack(tensor) for tensor in given), strict=True):
        states, met = step(read, states)
        kept.append([states[0], *met])
    return list(states), [tf.stack(tensors) for tensors in zip(*kept, strict=True)]


def _looped(
    step: _MaskedStep, given: Tensors, states: Tensors, num_met: int
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    static = given[0].shape[0]
    steps = tf.shape(given[0])[0] if static is None else static
    arrays = [tf.TensorArray(tensor.dtype, size=steps).unstack(tensor) for tensor in given]
    kept = [
        tf.TensorArray(states[0].dtype, size=steps, element_shape=states[0].shape)
        for _ in range(1 + num_met)
    ]

    def body(time: tf.Tensor, kept: Any, states: Any) -> tuple[Any, ...]:
        new, met = step([array.read(time) for array in arrays], states)
        written = [a.write(time, t) for a, t in zip(kept, [new[0], *met], strict=True)]
        return time + 1, written, new

    _, kept, last = tf.while_loop(
        lambda time, *_: time < steps,
        body,
        (tf.constant(0), kept, list(states)),
        maximum_iterations=steps,  # XLA needs it for the gradient
    )
    return list(last), [array.stack() for array in kept]
