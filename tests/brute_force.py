"""Curvature by plain automatic differentiation in float64: slow, and free of any trick."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def output_jacobian(model: Any, x: Any, variables: list[Any], training: bool = False) -> np.ndarray:
    """Jacobian of all outputs of a batch, shape `(outputs of the batch, weights)`."""
    with tf.GradientTape(persistent=True) as tape:
        outputs = tf.reshape(model(x, training=training), (-1,))
    jacobians = tape.jacobian(
        outputs,
        [variable.value for variable in variables],
        experimental_use_pfor=False,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return np.concatenate([j.numpy().reshape(len(outputs), -1) for j in jacobians], axis=1)


def loss_hessian(loss: Any, y: Any, outputs: Any, sample_weight: Any = None) -> np.ndarray:
    """Hessian of the reported loss with respect to all outputs of a batch."""
    outputs = tf.convert_to_tensor(outputs)
    loss = keras.losses.get(loss)
    flat = tf.reshape(outputs, (-1,))
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(flat)
        with tf.GradientTape() as inner:
            inner.watch(flat)
            shaped = tf.reshape(flat, outputs.shape)
            value = (
                loss(y, shaped, sample_weight=sample_weight)
                if isinstance(loss, keras.losses.Loss)
                else tf.reduce_mean(loss(y, shaped))
            )
        gradient = inner.gradient(value, flat)
    return outer.jacobian(gradient, flat, experimental_use_pfor=False).numpy()


def gauss_newton(
    model: Any, x: Any, y: Any, loss: Any, variables: list[Any], sample_weight: Any = None
) -> np.ndarray:
    """The dense Gauss-Newton matrix of the reported loss."""
    jacobian = output_jacobian(model, x, variables)
    hessian = loss_hessian(loss, y, model(x, training=False), sample_weight)
    return jacobian.T @ hessian @ jacobian
