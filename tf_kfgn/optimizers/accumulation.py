"""Curvature of several batches for one update, where gradients are accumulated too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn.blocks.collection import Estimates
from tf_kfgn.blocks.factor import are_finite


class Accumulated(NamedTuple):
    """Sums over the batches since the last update.

    Attributes:
        totals: Sum of the estimates of each block.
        batches: How many estimates entered.
    """

    totals: list[tuple[Any, ...]]
    batches: Any

    def mean(self) -> Estimates:
        """The mean estimate of each block."""
        return [
            tuple(tensor / tf.cast(self.batches, tensor.dtype) for tensor in block)
            for block in self.totals
        ]

    def cleared(self) -> Accumulated:
        """The sums over no batch."""
        return tf.nest.map_structure(tf.zeros_like, self)

    def with_batch(self, due: tf.Tensor, estimate: Callable[[], Estimates]) -> Accumulated:
        """Where due, add the estimates of one more batch, unless one of them is not finite."""

        def added() -> Accumulated:
            new = [tuple(block) for block in estimate()]
            finite = are_finite(tf.nest.flatten(new))
            totals = tf.nest.map_structure(tf.add, self.totals, new)
            return tf.cond(finite, lambda: Accumulated(totals, self.batches + 1), lambda: self)

        return tf.cond(due, added, lambda: self)
