"""Numbers that are mostly noise, as votes: in units of what is usual, heard where they agree."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_kfgn.optimizers.averaging import running_mean

# Weight of the old agreement when a new vote comes, and the largest single vote.
_DECAY = 0.8
_LARGEST = 3.0


class Heard(NamedTuple):
    """What a number says, and what is remembered of those before it.

    Attributes:
        vote: The number in units of the usual magnitude, within ±3.
        agreement: Running mean of the votes, each within ±1: near ±1 where all have one sign.
        magnitude: Running mean of the magnitude.
    """

    vote: tf.Tensor
    agreement: tf.Tensor
    magnitude: tf.Tensor


def heard(number: tf.Tensor, agreement: tf.Tensor, magnitude: tf.Tensor) -> Heard:
    """Count one more vote.

    Args:
        number: A scalar.
        agreement: That of the votes before.
        magnitude: That of the numbers before; 0 if this is the first.
    """
    magnitude = running_mean(magnitude, tf.abs(number))
    vote = tf.math.divide_no_nan(number, magnitude)
    vote = tf.clip_by_value(vote, -_LARGEST, _LARGEST)
    agreement = _DECAY * agreement + (1 - _DECAY) * tf.clip_by_value(vote, -1.0, 1.0)
    return Heard(vote, agreement, magnitude)
