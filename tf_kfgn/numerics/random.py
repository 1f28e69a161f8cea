"""Random numbers that are the same in eager mode, in a graph and under XLA.

TensorFlow's own stateless floats are not: XLA turns the same random integers into other floats.
"""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn.numerics.precision import at_least_float32

_BITS = 23  # so that a half can be added without rounding in float32
_PHILOX = "philox"  # the generator that TensorFlow selects by itself depends on the device


def fold_in(seed: tf.Tensor, number: int) -> tf.Tensor:
    """A new seed from a seed (two integers) and a number."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg=_PHILOX)


def uniform(shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Uniform numbers strictly between 0 and 1.

    Args:
        shape: Shape of the result.
        seed: Two integers.
        dtype: Type of what the numbers are for; float32 if that is narrower.
    """
    dtype = at_least_float32(dtype)
    integers = tf.random.stateless_uniform(shape, seed, 0, 1 << _BITS, dtype=tf.int32, alg=_PHILOX)
    return (tf.cast(integers, dtype) + 0.5) / (1 << _BITS)


def normal(shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Standard normal numbers; arguments as for `uniform`."""
    return tf.math.ndtri(uniform(shape, seed, dtype))


def normal_like(tensor: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Standard normal numbers in the shape and type of a tensor."""
    return tf.cast(normal(tf.shape(tensor), seed, tensor.dtype), tensor.dtype)
