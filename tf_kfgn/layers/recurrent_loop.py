"""The loop of Keras' recurrent layers, once more, with what the weight matrices meet at each step.

Keras' own loop hands neither the pre-activations of its steps out nor the outputs before them.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn.layers.recurrent_gradient import loop
from tf_kfgn.layers.recurrent_steps import CellSteps
from tf_kfgn.layers.time_loop import Tensors, over_time, spec_of, where_counted


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
    steps: CellSteps,
    sequences: tf.Tensor,
    zeros: Tensors,
    states: Tensors,
    mask: tf.Tensor | None = None,
    *,
    go_backwards: bool = False,
    unroll: bool = False,
) -> Run:
    """Repeat the step of a cell over a sequence.

    Args:
        steps: The cell's.
        sequences: `(batch_size, steps, features)`.
        zeros: What is added to the pre-activations, `(batch_size, steps, columns)`.
        states: The initial states, `(batch_size, units)`.
        mask: Which steps count, booleans of shape `(batch_size, steps)`; the others leave the
            states as they are. None if all do.
        go_backwards: Whether to start at the end.
        unroll: Whether to trace each step for itself.
    """

    def turned(tensors: Tensors) -> list[tf.Tensor]:
        """In the order of the loop, or back in that of the sequence; there and back is one."""
        return [tf.reverse(tensor, [0]) for tensor in tensors] if go_backwards else list(tensors)

    given = turned([_swapped(tensor) for tensor in steps.given(sequences, zeros)])
    counts = None if mask is None else turned([tf.transpose(mask)[..., None]])[0]
    met: list[tf.Tensor] = []
    if steps.is_apart and not unroll:
        after, last = loop(steps.apart(counts), given, steps.recurrent_kernel, states)
    else:
        repeat = _unrolled if unroll else _looped
        last, (after, *met) = repeat(steps, given, states, counts)
    before = tf.concat([states[0][None], after[:-1]], axis=0)
    after, before, *met = (_swapped(tensor) for tensor in turned([after, before, *met]))
    return Run(after, before, last, met)


def _swapped(tensor: tf.Tensor) -> tf.Tensor:
    """Time before examples, or after them."""
    return tf.transpose(tensor, (1, 0, 2))


def _step(
    steps: CellSteps,
    counts: tf.Tensor | None,
    time: tf.Tensor | int,
    read: Tensors,
    old: Tensors,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """One step, which leaves the states as they are where it does not count."""
    stepped = steps.step(read, old)
    new = where_counted(counts, time, stepped.states, old)
    return new, [new[0], *stepped.met]


def _unrolled(
    steps: CellSteps, given: Tensors, states: Tensors, counts: tf.Tensor | None
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    kept = []
    for time, read in enumerate(zip(*(tf.unstack(tensor) for tensor in given), strict=True)):
        states, keeps = _step(steps, counts, time, read, states)
        kept.append(keeps)
    return list(states), [tf.stack(tensors) for tensors in zip(*kept, strict=True)]


def _looped(
    steps: CellSteps, given: Tensors, states: Tensors, counts: tf.Tensor | None
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    specs = (1 + steps.num_met) * [spec_of(states[0])]
    step = functools.partial(_step, steps, counts)
    return over_time(step, given, states, specs, recorded=True)
