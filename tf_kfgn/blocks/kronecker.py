"""A Kronecker block: average, damp, invert and precondition with `A ⊗ G`.

Every function is pure: values in, values out. The optimizer holds the variables.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class KroneckerState(NamedTuple):
    """What a block remembers, all of shape `(in [+ 1], in [+ 1])` or `(out, out)`.

    Attributes:
        A: Moving average of the input factor.
        G: Moving average of the output factor.
        A_inverse: Inverse of the damped A; the identity until the first inversion.
        G_inverse: Inverse of the damped G; the identity until the first inversion.
    """

    A: tf.Tensor
    G: tf.Tensor
    A_inverse: tf.Tensor
    G_inverse: tf.Tensor


def average(state: KroneckerState, A: tf.Tensor, G: tf.Tensor, decay: tf.Tensor) -> KroneckerState:
    """Mix new factors into the moving averages: `s <- decay * s + (1 - decay) * x`."""
    decay = tf.cast(decay, state.A.dtype)
    return state._replace(
        A=decay * state.A + (1 - decay) * tf.cast(A, state.A.dtype),
        G=decay * state.G + (1 - decay) * tf.cast(G, state.G.dtype),
    )


def invert(state: KroneckerState, damping: tf.Tensor) -> tuple[KroneckerState, tf.Tensor]:
    """Invert the damped factors `A + π √τ I` and `G + √τ / π I`.

    If a factorisation fails, the last good inverses stay.

    Args:
        state: The block.
        damping: τ, a scalar.

    Returns:
        The new state, and whether both factorisations succeeded.
    """
    root = tf.sqrt(tf.cast(damping, state.A.dtype))
    pi = scale_ratio(state.A, state.G)
    A_inverse = cholesky_inverse(state.A + pi * root * _eye(state.A))
    G_inverse = cholesky_inverse(state.G + root / pi * _eye(state.G))
    good = is_finite(A_inverse) & is_finite(G_inverse)
    return (
        state._replace(
            A_inverse=tf.where(good, A_inverse, state.A_inverse),
            G_inverse=tf.where(good, G_inverse, state.G_inverse),
        ),
        good,
    )


def precondition(state: KroneckerState, matrix: tf.Tensor) -> tf.Tensor:
    """The damped inverse block times a matrix of shape `(in [+ 1], out)`."""
    dtype = state.A.dtype
    product = tf.matmul(tf.matmul(state.A_inverse, tf.cast(matrix, dtype)), state.G_inverse)
    return tf.cast(product, matrix.dtype)


def scale_ratio(A: tf.Tensor, G: tf.Tensor) -> tf.Tensor:
    """π of the factored damping, `π² = (tr A / dim A) / (tr G / dim G)`; 1 if a trace vanishes.

    Martens & Grosse (2015), section 6.3.
    """
    mean_A = tf.reduce_mean(tf.linalg.diag_part(A))
    mean_G = tf.reduce_mean(tf.linalg.diag_part(G))
    usable = (mean_A > 0) & (mean_G > 0)
    one = tf.ones_like(mean_A)
    ratio = tf.where(usable, mean_A, one) / tf.where(usable, mean_G, one)
    return tf.sqrt(tf.where(usable, ratio, one))


def cholesky_inverse(matrix: tf.Tensor) -> tf.Tensor:
    """Inverse of a symmetric positive definite matrix; not finite if it is not that."""
    root_inverse = tf.linalg.triangular_solve(tf.linalg.cholesky(matrix), _eye(matrix))
    return tf.matmul(root_inverse, root_inverse, transpose_a=True)


def is_finite(tensor: tf.Tensor) -> tf.Tensor:
    """Whether every element is finite, a scalar boolean."""
    return tf.reduce_all(tf.math.is_finite(tensor))


def _eye(matrix: tf.Tensor) -> tf.Tensor:
    return tf.eye(matrix.shape[0], dtype=matrix.dtype)
