"""Back along the iterates of CG: the last one need not serve the objective best.

Martens (2010), section 4.6: the later iterates fit the quadratic model ever better, and the
objective perhaps no more. From the last one it goes back as long as the objective falls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Choice(NamedTuple):
    """One of several candidates.

    Attributes:
        index: Its number.
        value: The objective there; infinite if none was looked at.
    """

    index: tf.Tensor
    value: tf.Tensor


def go_back(
    objective_of: Callable[[tf.Tensor], tf.Tensor],
    last: tf.Tensor,
    first: tf.Tensor,
    due: tf.Tensor,
    dtype: tf.DType,
) -> Choice:
    """Look at candidates from the last one backwards, until one is no better than the one after.

    Args:
        objective_of: The objective at a candidate, whose number it is given; traced once.
        last: Number of the last candidate, an int32 scalar.
        first: Number of the first candidate that may be looked at.
        due: Whether to look at any.
        dtype: Of the objective.

    Returns:
        The best of those that were looked at; the last candidate if none was.
    """

    def one_back(
        index: tf.Tensor, best: Choice, _: tf.Tensor
    ) -> tuple[tf.Tensor, Choice, tf.Tensor]:
        value = tf.cast(objective_of(index), dtype)
        better = (value < best.value) | ~tf.math.is_finite(best.value)
        chosen = Choice(tf.where(better, index, best.index), tf.where(better, value, best.value))
        return index - 1, chosen, better & (index > first)

    none = Choice(last, tf.constant(float("inf"), dtype))
    _, best, _ = tf.while_loop(
        lambda index, best, goes_on: goes_on, one_back, (last, none, due), parallel_iterations=1
    )
    return best
