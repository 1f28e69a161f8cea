"""Bernoulli: binary cross-entropy of independent logits."""

from __future__ import annotations

import math

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.losses.diagonal import Diagonal
from tf_kfgn.replicas import uniform_of_examples


class Bernoulli(Diagonal):
    """Mean binary cross-entropy over a row of D logits: its Hessian is `diag(p (1 - p)) / D`."""

    functions = (keras.losses.binary_crossentropy,)
    head = "Sigmoid"

    @override
    def diagonal(self) -> tf.Tensor:
        return tf.sigmoid(self.outputs) * tf.sigmoid(-self.outputs) / self.features

    @override
    def row_sample(self, seed: tf.Tensor) -> tf.Tensor:
        """The gradient for targets drawn from the model."""
        p = tf.sigmoid(self.outputs)
        uniform = uniform_of_examples(tf.shape(p), seed, p.dtype)
        targets = uniform < tf.cast(p, uniform.dtype)
        return (p - tf.cast(targets, p.dtype)) / math.sqrt(self.features)
