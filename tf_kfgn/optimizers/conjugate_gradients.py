"""Truncated conjugate gradients: one linear system, as a function of values.

After Martens, "Deep learning via Hessian-free optimization", ICML 2010, section 4.4: the model

    φ(x) = 1/2 x^T A x - b^T x

falls with every iteration, and CG stops where it hardly falls any more, not where the residual is
small. Iterates on the way are kept, since one of them may serve the objective better than the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_kfgn.optimizers.step_size import Vector, dot

Operator = Callable[[list[tf.Tensor]], list[tf.Tensor]]

# Progress is measured over this many iterations, or over this part of those so far.
WINDOW, PART_OF_ITERATIONS = 10, 0.1

# Each iterate that is kept has this many times the number of the one before.
SPACING = 1.3


class Solution(NamedTuple):
    """Where CG stopped, and how it came there.

    Attributes:
        x: The last iterate, one tensor for each variable.
        iterations: Its number, an int32 scalar; 0 is the start.
        values: φ of every iterate up to that one; has shape `(most_iterations + 1,)`.
        kept: The iterates with the numbers `kept_at`: `(len(kept_at), *shape)` for each variable;
            those that were not reached are zeros.
        indefinite: Whether it ended because some `p^T A p` was finite but not positive.
        failed: Whether it ended because of that, or because something was not finite.
    """

    x: list[tf.Tensor]
    iterations: tf.Tensor
    values: tf.Tensor
    kept: list[tf.Tensor]
    indefinite: tf.Tensor
    failed: tf.Tensor

    @property
    def value(self) -> tf.Tensor:
        """φ of the last iterate."""
        return self.values[self.iterations]


class _Search(NamedTuple):
    """What an iteration hands on to the next; ρ is r^T M⁻¹ r."""

    number: tf.Tensor
    x: list[tf.Tensor]
    residual: list[tf.Tensor]
    direction: list[tf.Tensor]
    rho: tf.Tensor
    values: tf.Tensor
    kept: list[tf.Tensor]
    done: tf.Tensor
    indefinite: tf.Tensor
    failed: tf.Tensor


def conjugate_gradients(
    product: Operator,
    target: Vector,
    *,
    precondition: Operator = list,
    start: Vector | None = None,
    most_iterations: int,
    tolerance: float = 0.0,
    kept_at: Sequence[int] = (),
) -> Solution:
    """Solve `A x = b` until the progress is small, or nothing is left but round-off.

    A product that is not finite, and a direction without positive curvature, end the search with
    the last good iterate.

    Args:
        product: A times a vector; symmetric and positive definite.
        target: b, one tensor for each variable.
        precondition: M⁻¹ times a vector, of a symmetric, positive definite M near A.
        start: The first iterate. It is dropped for zeros where φ is not below 0. Defaults to zeros,
            which saves one product.
        most_iterations: Number of iterations after which it stops in any case.
        tolerance: ε: after iteration i it stops if `φ_i - φ_(i-k)` is less than `k ε` of `φ_i`,
            with `k = max(10, i / 10)`. At 0 it stops where φ falls no more.
        kept_at: Numbers of iterates to keep, ascending.
    """
    target = list(target)
    zero = tf.zeros_like(dot(target, target))
    x, residual, value = _first(product, target, start)
    least = np.finfo(zero.dtype.as_numpy_dtype).eps ** 2 * dot(target, precondition(target))
    direction = precondition(residual)
    rho = dot(residual, direction)
    places = tf.range(most_iterations + 1)

    def one_more(search: _Search) -> tuple[_Search]:
        image = product(search.direction)
        curvature = dot(search.direction, image)
        positive = curvature > 0
        length = search.rho / tf.where(positive, curvature, tf.ones_like(curvature))
        x = _sum(search.x, length, search.direction)
        residual = _sum(search.residual, -length, image)
        solved = precondition(residual)
        rho = dot(residual, solved)
        value = _value(x, residual, target)
        finite = tf.math.is_finite(curvature + rho + value)
        good = positive & finite
        number = search.number + 1
        values = tf.where(places == number, value, search.values)
        moved = search._replace(
            number=number,
            x=x,
            residual=residual,
            direction=_sum(solved, rho / search.rho, search.direction),
            rho=rho,
            values=values,
            kept=_keep(search.kept, x, number, kept_at),
            done=~(rho > least) | _has_stalled(values, number, tolerance),
        )
        ended = search._replace(
            done=tf.constant(True), indefinite=finite & ~positive, failed=tf.constant(True)
        )
        return (tf.cond(good, lambda: moved, lambda: ended),)

    [found] = tf.while_loop(
        lambda search: ~search.done,
        one_more,
        (
            _Search(
                number=tf.constant(0),
                x=x,
                residual=residual,
                direction=direction,
                rho=rho,
                values=tf.where(places == 0, value, zero),
                kept=[tf.zeros((len(kept_at), *t.shape), t.dtype) for t in target],
                done=~(rho > least),
                indefinite=tf.constant(False),
                failed=~tf.math.is_finite(rho),
            ),
        ),
        maximum_iterations=most_iterations,
        parallel_iterations=1,
    )
    return Solution(found.x, found.number, found.values, found.kept, found.indefinite, found.failed)


def spaced_numbers(most_iterations: int) -> list[int]:
    """Numbers of the iterates to keep: 1, 2, 3, 4, 5, 7, 9, 11, 14, ... below the last."""
    count = math.ceil(math.log(most_iterations) / math.log(SPACING)) if most_iterations > 1 else 0
    numbers = {math.ceil(SPACING**power) for power in range(count)}
    return sorted(number for number in numbers if number < most_iterations)


def _first(
    product: Operator, target: list[tf.Tensor], start: Vector | None
) -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor]:
    """The first iterate, its residual, and φ there."""
    zeros = [tf.zeros_like(t) for t in target]
    nothing = tf.zeros_like(dot(target, target))
    if start is None:
        return zeros, target, nothing
    start = list(start)
    residual = _sum(target, tf.constant(-1.0, nothing.dtype), product(start))
    value = _value(start, residual, target)
    return tf.cond(value < 0, lambda: (start, residual, value), lambda: (zeros, target, nothing))


def _value(x: Vector, residual: Vector, target: Vector) -> tf.Tensor:
    """φ, from the residual: `-1/2 x^T (b + r)`."""
    return -0.5 * dot(x, [b + r for b, r in zip(target, residual, strict=True)])


def _has_stalled(values: tf.Tensor, number: tf.Tensor, tolerance: float) -> tf.Tensor:
    """Whether φ has fallen too little over the last iterations."""
    part = tf.cast(tf.cast(number, values.dtype) * PART_OF_ITERATIONS, tf.int32)
    window = tf.maximum(WINDOW, part)
    value, earlier = values[number], values[tf.maximum(number - window, 0)]
    enough = tf.cast(window, values.dtype) * tf.constant(tolerance, values.dtype) * tf.abs(value)
    return (number > window) & (value < 0) & (earlier - value <= enough)


def _keep(
    kept: list[tf.Tensor], x: list[tf.Tensor], number: tf.Tensor, kept_at: Sequence[int]
) -> list[tf.Tensor]:
    """The kept iterates, with this one if it is to be."""
    if not kept_at:
        return kept
    numbers = tf.constant(kept_at)
    place = tf.reduce_sum(tf.cast(numbers < number, tf.int32))
    return tf.cond(
        tf.reduce_any(numbers == number),
        lambda: [
            tf.tensor_scatter_nd_update(rows, [[place]], row[None])
            for rows, row in zip(kept, x, strict=True)
        ],
        lambda: kept,
    )


def _sum(first: Vector, factor: tf.Tensor, second: Vector) -> list[tf.Tensor]:
    """`first + factor * second`."""
    return [a + tf.cast(factor, a.dtype) * b for a, b in zip(first, second, strict=True)]
