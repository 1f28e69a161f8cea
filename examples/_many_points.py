"""The second derivatives of a two-layer network at many points of its weights at once.

By automatic differentiation alone, so that it is something to compare the package with.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

AT_ONCE = 100  # points


def matrices_at(
    activation: str, x: np.ndarray, y: np.ndarray, weights: np.ndarray, hidden: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hessian and Gauss-Newton matrix of the mean squared error of `f(x W1) W2`.

    Args:
        activation: Name of f.
        x: Inputs, shape `(points, batch_size, inputs)`.
        y: Targets, shape `(points, batch_size, outputs)`.
        weights: W1 and then W2, each row-major, shape `(points, weights)`.
        hidden: Units of the hidden layer.

    Returns:
        Both of shape `(points, weights, weights)`.
    """
    compiled = _compiled(keras.activations.get(activation), hidden)
    parts = [
        compiled(*(tf.constant(array[start : start + AT_ONCE]) for array in (x, y, weights)))
        for start in range(0, len(weights), AT_ONCE)
    ]
    hessians, gauss_newton = zip(*parts, strict=True)
    return np.concatenate(hessians), np.concatenate(gauss_newton)


def _compiled(activation: Callable[[tf.Tensor], tf.Tensor], hidden: int) -> Callable[..., object]:
    @tf.function(reduce_retracing=True)
    def matrices(x: tf.Tensor, y: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inputs, outputs = x.shape[-1], y.shape[-1]
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(weights)
            with tf.GradientTape() as inner:
                inner.watch(weights)
                first = tf.reshape(weights[:, : inputs * hidden], (-1, inputs, hidden))
                second = tf.reshape(weights[:, inputs * hidden :], (-1, hidden, outputs))
                predictions = activation(x @ first) @ second
                errors = tf.reduce_mean((predictions - y) ** 2, axis=(1, 2))
            gradients = inner.gradient(errors, weights)
            flat = tf.reshape(predictions, (-1, predictions.shape[1] * outputs))
        J = outer.batch_jacobian(flat, weights)
        scale = tf.constant(2 / flat.shape[1], J.dtype)  # a cast would go through float32
        return outer.batch_jacobian(gradients, weights), scale * tf.matmul(J, J, transpose_a=True)

    return matrices
