"""What `tf_kfgn._keras.normalization` says of batch normalisation is so."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_kfgn._keras import normalization

X = np.random.default_rng(0).normal(2, 3, size=(20, 4)).astype("float32")


def layer_of(**kwargs):
    try:
        layer = keras.layers.BatchNormalization(**kwargs)
    except (TypeError, ValueError):
        pytest.skip("this Keras has no renorm")
    layer.build(X.shape)
    layer.set_weights([w + 0.3 for w in layer.get_weights()])
    return layer


def test_corrects():
    assert not normalization.corrects(layer_of())
    assert normalization.corrects(layer_of(renorm=True))


@pytest.mark.parametrize("kwargs", [{}, {"renorm": True}, {"scale": False}], ids=str)
def test_batch_statistics(kwargs):
    layer = layer_of(**kwargs)
    before = layer.get_weights()
    mean, variance, gamma, beta = normalization.batch_statistics(layer, tf.constant(X), None)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)  # nothing moves
    outputs = keras.ops.batch_normalization(
        X, mean, variance, -1, offset=beta, scale=gamma, epsilon=layer.epsilon
    )
    np.testing.assert_allclose(layer(X, training=True), outputs, rtol=1e-4, atol=1e-5)
    assert (gamma is None) is (kwargs == {"scale": False})
