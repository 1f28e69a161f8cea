"""Random numbers that belong to an example of the whole batch, whichever replica has it."""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn.numerics import random
from tf_kfgn.replicas.reduction import count, index


def uniform_of_examples(shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Uniform numbers strictly between 0 and 1, those of the examples' places in the whole batch.

    Every replica has as many examples as this one.

    Args:
        shape: Shape of the result; its first axis counts the examples of this replica.
        seed: Two integers.
        dtype: Type of what the numbers are for; float32 if that is narrower.
    """
    if count() == 1:
        return random.uniform(shape, seed, dtype)
    before = index() * tf.reduce_prod(tf.cast(shape, tf.int64))
    return random.uniform(shape, seed, dtype, before)


def normal_of_examples(tensor: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Standard normal numbers in the shape and type of a tensor whose first axis are examples."""
    uniform = uniform_of_examples(tf.shape(tensor), seed, tensor.dtype)
    return tf.cast(tf.math.ndtri(uniform), tensor.dtype)
