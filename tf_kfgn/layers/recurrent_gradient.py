"""A loop over time whose gradient, and its transpose, are one loop each.

The gradient of a `tf.while_loop` keeps every tensor of every step, and multiplies with weights at
each. Here a loop keeps states and pre-activations alone; the gradient goes back through what a
step does with these, and all products with weights but that with the last state wait until the
loop has ended. The transpose of the gradient, with which a Jacobian is multiplied, goes forwards
once more and never back.

With the states s, the first of which is met by the recurrent kernel R, a step is

    s_t = f(p_t, s_(t-1)),  p_t = d_t + (s_(t-1) R in the last of the pre-activations),

where the drive d_t is what does not depend on states: inputs times kernel, and biases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn._keras.tapes import may_be_recorded
from tf_kfgn.layers.time_loop import Tensors, over_time, spec_of, spec_of_step, where_counted
from tf_kfgn.recording.active import TRANSPOSING


class Cell(NamedTuple):
    """What a step does, apart from its weights.

    Attributes:
        activated: f: pre-activations and old states to new states, each `(batch_size, columns)`.
        dropout: What the first state is multiplied with before R meets it, or None.
        counts: Which steps count, booleans of shape `(steps, batch_size, 1)`; the others leave the
            states as they are. None if all do.
    """

    activated: Callable[[Tensors, Tensors], list[tf.Tensor]]
    dropout: tf.Tensor | None
    counts: tf.Tensor | None

    def met(self, state: tf.Tensor) -> tf.Tensor:
        """What R meets: the first state, or its cotangent where R has met it."""
        return state if self.dropout is None else state * self.dropout

    def pre_activations(
        self, drives: Tensors, state: tf.Tensor, kernel: tf.Tensor
    ) -> list[tf.Tensor]:
        """The p of a step, from its drives, the first state before it, and R."""
        return [*drives[:-1], drives[-1] + tf.matmul(self.met(state), kernel)]

    def chosen(self, time: tf.Tensor, new: Tensors, old: Tensors) -> list[tf.Tensor]:
        """The new tensors where the step counts, else the old ones."""
        return where_counted(self.counts, time, new, old)


class _Passed(NamedTuple):
    """What a loop leaves behind.

    Attributes:
        cell: What it did.
        kernel: R.
        before: Every state before each step, `(steps, batch_size, units)`.
        pre_activations: Of each step, `(steps, batch_size, columns)`.
    """

    cell: Cell
    kernel: tf.Tensor
    before: list[tf.Tensor]
    pre_activations: list[tf.Tensor]


def loop(
    cell: Cell, drives: Tensors, kernel: tf.Tensor, states: Tensors
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Run a loop.

    Args:
        cell: What its steps do.
        drives: d, for each of the pre-activations, `(steps, batch_size, columns)`.
        kernel: R.
        states: The first states.

    Returns:
        The first state after each step, `(steps, batch_size, units)`, and the last states.
    """
    outer = tf.convert_to_tensor(kernel)  # a variable inside `run` would be one more argument

    @tf.custom_gradient
    def run(kernel: tf.Tensor, *tensors: tf.Tensor) -> Any:
        passed, last = _forwards(cell, *_split(tensors, len(drives)), kernel)

        def gradient(*cotangents: tf.Tensor) -> Any:
            if TRANSPOSING.get() or not may_be_recorded():
                return _transposable(passed)(*cotangents)
            return _differentiable(cell, outer, drives, states, cotangents)

        return (_after(passed, last), *last), gradient

    after, *last = run(outer, *drives, *states)
    return after, last


def _after(passed: _Passed, last: Tensors) -> tf.Tensor:
    """The first state after each step."""
    return tf.concat([passed.before[0][1:], last[0][None]], axis=0)


def _forwards(
    cell: Cell, drives: Tensors, states: Tensors, kernel: tf.Tensor, *, recorded: bool = False
) -> tuple[_Passed, list[tf.Tensor]]:
    """Run a loop, which a tape may record: what it leaves behind, and its last states."""

    def step(time: tf.Tensor, read: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        pre = cell.pre_activations(read, states[0], kernel)
        new = cell.chosen(time, cell.activated(pre, states), states)
        return new, [*states, *pre]

    specs = [*map(spec_of, states), *map(spec_of_step, drives)]
    last, kept = over_time(step, drives, states, specs, recorded=recorded)
    return _Passed(cell, kernel, kept[: len(states)], kept[len(states) :]), last


def _differentiable(
    cell: Cell, kernel: tf.Tensor, drives: Tensors, states: Tensors, cotangents: Tensors
) -> list[tf.Tensor]:
    """The gradient of a loop, for whoever differentiates it again, for weights or inputs too.

    Those depend on the arguments of `loop`, and not on those of the function inside, where tapes
    do not record.
    """
    given = [kernel, *drives, *states]
    with tf.GradientTape() as tape:
        tape.watch(given)
        passed, last = _forwards(cell, drives, states, kernel, recorded=True)
        outputs = [_after(passed, last), *last]
    zero = tf.UnconnectedGradients.ZERO
    found: list[tf.Tensor] = tape.gradient(outputs, given, list(cotangents), zero)
    return found


def _transposable(passed: _Passed) -> Callable[..., Any]:
    """The gradient of a loop, a linear function of its cotangents whose transpose is known."""

    @tf.custom_gradient
    def backwards(*cotangents: tf.Tensor) -> Any:
        def transpose(*tangents: tf.Tensor) -> list[tf.Tensor]:
            return _tangents(passed, tangents)

        return tuple(_cotangents(passed, cotangents)), transpose

    return backwards


def _cotangents(passed: _Passed, cotangents: Tensors) -> list[tf.Tensor]:
    """Those of R, drives and first states, from those of what `loop` returns."""
    cell, kernel, before, known = passed
    after, *last = cotangents

    def step(time: tf.Tensor, read: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        old, pre = _split(read[1:], len(before))
        of_new = [states[0] + read[0], *states[1:]]
        with tf.GradientTape() as tape:
            tape.watch([*old, *pre])
            new = cell.activated(pre, old)
        zeros = [tf.zeros_like(tensor) for tensor in of_new]
        found = tape.gradient(
            new,
            [*old, *pre],
            cell.chosen(time, of_new, zeros),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        through, of_pre = _split(found, len(old))
        recurrent = cell.met(tf.matmul(of_pre[-1], kernel, transpose_b=True))
        through = [through[0] + recurrent, *through[1:]]
        skipped = cell.chosen(time, zeros, of_new)
        if cell.counts is not None:
            through = [t + s for t, s in zip(through, skipped, strict=True)]
        return through, of_pre

    specs = [*map(spec_of_step, known)]
    given = [after, *before, *known]
    first, of_drives = over_time(step, given, last, specs, backwards=True)
    of_kernel = tf.einsum("tbi,tbo->io", cell.met(before[0]), of_drives[-1])
    return [of_kernel, *of_drives, *first]


def _tangents(passed: _Passed, tangents: Tensors) -> list[tf.Tensor]:
    """Those of what `loop` returns, from those of R, drives and first states."""
    cell, kernel, before, known = passed
    of_kernel, of_drives = tangents[0], list(tangents[1 : 1 + len(known)])
    of_drives[-1] += tf.einsum("tbi,io->tbo", cell.met(before[0]), of_kernel)

    def step(time: tf.Tensor, read: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        drives, rest = _split(read, len(of_drives))
        old, pre = _split(rest, len(before))
        inputs = [*old, *pre]
        moves = [*states, *cell.pre_activations(drives, states[0], kernel)]
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                new = cell.activated(pre, old)
            weights = [tf.zeros_like(tensor) for tensor in new]
            outer.watch(weights)
            zero = tf.UnconnectedGradients.ZERO
            products = inner.gradient(new, inputs, weights, unconnected_gradients=zero)
        moved = outer.gradient(products, weights, moves, unconnected_gradients=zero)
        moved = cell.chosen(time, moved, states)
        return moved, moved[:1]

    first = list(tangents[1 + len(of_drives) :])
    given = [*of_drives, *before, *known]
    last, [after] = over_time(step, given, first, [spec_of(first[0])])
    return [after, *last]


def _split(tensors: Tensors, count: int) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    return list(tensors[:count]), list(tensors[count:])
