"""The statistics that batch normalisation computes with in training."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.inventory import stands_for


@stands_for("keras.layers.BatchNormalization.renorm")
def corrects(layer: keras.layers.BatchNormalization) -> bool:
    """Whether a layer corrects the batch's statistics by the moving ones.

    Public where it exists: older versions of Keras never correct, and have no such attribute.
    """
    return bool(getattr(layer, "renorm", False))


@stands_for(
    "keras.layers.BatchNormalization._moments",
    "keras.layers.BatchNormalization._renorm_correction_and_moments",
    "keras.layers.BatchNormalization._compose_transforms",
)
def batch_statistics(
    layer: Any, inputs: tf.Tensor, mask: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor, Any, Any]:
    """Mean and variance of a batch, and the scale and offset that go with them, or None.

    `call` computes them too, but updates the moving statistics and keeps these to itself.
    """
    gamma = layer.gamma if layer.scale else None
    beta = layer.beta if layer.center else None
    mean, variance = layer._moments(inputs, mask)
    if corrects(layer):
        r, d, mean, variance = layer._renorm_correction_and_moments(mean, variance)
        gamma, beta = layer._compose_transforms(r, d, gamma, beta, inputs.dtype)
    return mean, variance, gamma, beta
