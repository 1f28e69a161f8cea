"""Sums whose terms are added in one order, so that they are the same in every run."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def ordered_sum(terms: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sum of tensors of one shape, bitwise the same in every run.

    `tf.add_n` is not, once there are three: it begins with a term whose memory nobody else reads
    any more, and which terms these are depends on the order in which other operations happen to
    end. Grappler makes the same operation of `a + b + c`.

    Args:
        terms: At least one.
    """
    if len(terms) == 1:
        return terms[0]
    if len(terms) == 2:
        return tf.add_n(list(terms))
    return tf.reduce_sum(tf.stack(terms), axis=0)
