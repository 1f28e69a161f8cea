"""Sums of outer products of patches, from what patches at neighbouring positions share.

Along one axis tap k of a kernel meets position `s_k + o` of the input for position o of the output.
The block of A for the taps k and l is the sum over o of `z[s_k + o] z[s_l + o]^T`. So with stride 1
all pairs of taps at the same distance sum the same products, but for a few positions at the ends:
T blocks are computed instead of T^2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn.numerics.sums import ordered_sum


class Span(NamedTuple):
    """Positions from `first` to before `end`; none if that is no more."""

    first: int
    end: int

    def holds(self, other: Span) -> bool:
        """Whether it has all positions of another one."""
        return self.first <= other.first and other.end <= self.end


def patch_products(
    rows: tf.Tensor, starts: Sequence[int], positions: int, *, ones: bool
) -> tf.Tensor:
    """The sum of outer products of patches along one axis, over all examples and positions.

    Args:
        rows: The input, shape `(size, k, features)`, with the axis of the kernel first; k counts
            all else that there is a patch for.
        starts: Where each tap is for the first position of the output, ascending; what lies outside
            of the input is zero.
        positions: Number of positions of the output, which are one step apart.
        ones: Whether each patch ends with a 1.

    Returns:
        Shape `(taps * features [+ 1], taps * features [+ 1])`.
    """
    taps, size = range(len(starts)), rows.shape[0]
    spans: dict[int, dict[tuple[int, int], Span]] = {}
    for k, m in itertools.combinations_with_replacement(taps, 2):
        distance = starts[m] - starts[k]
        spans.setdefault(distance, {})[k, m] = _met(starts[k], positions, size - distance)
    blocks: dict[tuple[int, int], tf.Tensor] = {}
    for distance, of_pairs in spans.items():
        for pair, block in _products(rows, distance, of_pairs).items():
            blocks[pair] = block
            blocks[pair[::-1]] = block if pair[0] == pair[1] else tf.transpose(block)
    lines = [tf.concat([blocks[k, m] for m in taps], axis=1) for k in taps]
    if not ones:
        return tf.concat(lines, axis=0)
    sums = tf.reduce_sum(rows, axis=1)
    met = [_met(start, positions, size) for start in starts]
    last = tf.concat([tf.reduce_sum(sums[s.first : s.end], axis=0) for s in met], axis=0)
    count = tf.cast(tf.shape(rows)[1] * positions, rows.dtype)
    inner = tf.concat([*lines, last[None]], axis=0)
    return tf.concat([inner, tf.concat([last, count[None]], axis=0)[:, None]], axis=1)


def _met(start: int, positions: int, size: int) -> Span:
    """Which of `size` positions a tap meets."""
    first = max(start, 0)
    return Span(first, max(first, min(start + positions, size)))


def _products(
    rows: tf.Tensor, distance: int, spans: dict[tuple[int, int], Span]
) -> dict[tuple[int, int], tf.Tensor]:
    """Sums of `z[q] z[q + distance]^T` over the positions q of each span; what they share is once.

    Args:
        rows: z.
        distance: At least 0.
        spans: By whatever they are for.
    """
    features = rows.shape[-1]
    ends = sorted({end for span in spans.values() for end in span})
    products = {}
    for piece in itertools.starmap(Span, itertools.pairwise(ends)):
        if any(span.holds(piece) for span in spans.values()):
            left, right = (
                tf.reshape(rows[piece.first + shift : piece.end + shift], (-1, features))
                for shift in (0, distance)
            )
            products[piece] = tf.matmul(left, right, transpose_a=True)
    found = {}
    for pair, span in spans.items():
        own = [product for piece, product in products.items() if span.holds(piece)]
        found[pair] = ordered_sum(own) if own else tf.zeros((features, features), rows.dtype)
    return found
