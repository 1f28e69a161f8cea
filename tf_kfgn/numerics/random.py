"""Random numbers that are the same in eager mode, in a graph and under XLA.

TensorFlow's own stateless floats are not: XLA turns the same random integers into other floats.
"""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn.numerics.precision import at_least_float32

_BITS = 23  # so that a half can be added without rounding in float32
_PHILOX = "philox"  # the generator that TensorFlow selects by itself depends on the device
_PHILOX_NUMBER = tf.random.Algorithm.PHILOX.value
_AT_ONCE = 4  # integers of 32 bits for one value of its counter


def fold_in(seed: tf.Tensor, number: int) -> tf.Tensor:
    """A new seed from a seed (two integers) and a number."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg=_PHILOX)


def uniform(
    shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType, before: tf.Tensor | None = None
) -> tf.Tensor:
    """Uniform numbers strictly between 0 and 1.

    Args:
        shape: Shape of the result.
        seed: Two integers.
        dtype: Type of what the numbers are for; float32 if that is narrower.
        before: How many numbers of the stream to pass over, an int64 scalar. Defaults to none.
    """
    dtype = at_least_float32(dtype)
    if before is None:
        integers = tf.random.stateless_uniform(
            shape, seed, 0, 1 << _BITS, dtype=tf.int32, alg=_PHILOX
        )
    else:
        integers = _integers_from(before, shape, seed)
    return (tf.cast(integers, dtype) + 0.5) / (1 << _BITS)


def _integers_from(before: tf.Tensor, shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The integers of the stream of a seed from a place on; Philox makes `_AT_ONCE` at a time."""
    key_and_counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    skipped = tf.cast(before // _AT_ONCE, tf.uint64)
    counter = key_and_counter.counter + tf.stack([skipped, tf.zeros_like(skipped)])
    first = tf.cast(before % _AT_ONCE, tf.int32)
    size = tf.reduce_prod(tf.cast(shape, tf.int32))
    integers = tf.raw_ops.StatelessRandomUniformIntV2(
        shape=[size + first],
        key=key_and_counter.key,
        counter=counter,
        alg=_PHILOX_NUMBER,
        minval=tf.constant(0),
        maxval=tf.constant(1 << _BITS),
    )
    return tf.reshape(integers[first:], shape)


def normal(shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Standard normal numbers; arguments as for `uniform`."""
    return tf.math.ndtri(uniform(shape, seed, dtype))
