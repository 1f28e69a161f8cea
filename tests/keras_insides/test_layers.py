"""What `tf_kfgn._keras.layers` says of layers is so."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras import layers


class Composed(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(2)
        self.others = [keras.layers.Dropout(0.5), keras.Sequential([keras.layers.Dense(3)])]
        self.metric = keras.metrics.Mean()


def test_inner_layers():
    layer = Composed()
    assert layers.inner_layers(layer) == [layer.first, *layer.others]


def test_flattened_layers():
    layer = Composed()
    inside = [layer.first, *layer.others, layer.others[1].layers[0]]
    assert list(layers.flattened_layers(layer)) == [layer, *inside]
    assert list(layers.flattened_layers(layer, include_self=False)) == inside
    layer.again = layer.first
    assert len(list(layers.flattened_layers(layer))) == 5  # each once


def test_seed_generators():
    layer = keras.layers.Dropout(0.5)
    assert layers.seed_generators(layer) == [layer.seed_generator]
    assert layers.seed_generators(keras.layers.Dense(1)) == []


def test_converts_inputs():
    dense = keras.layers.Dense(1, dtype="mixed_float16")
    assert layers.converts_inputs(dense)
    assert dense(tf.ones((1, 1))).dtype == tf.float16
    assert not layers.converts_inputs(keras.layers.StringLookup(vocabulary=["a"]))


def test_with_mask():
    mask = tf.constant([[True, False]])
    masked = layers.with_mask(tf.ones((1, 2, 1)), mask)
    pooled = keras.layers.GlobalAveragePooling1D()(masked * [[[1.0], [5.0]]])
    np.testing.assert_allclose(pooled, [[3.0]])  # the product has lost it
    masked = layers.with_mask(tf.constant([[[1.0], [5.0]]]), mask)
    np.testing.assert_allclose(keras.layers.GlobalAveragePooling1D()(masked), [[1.0]])
    assert layers.mask_of(layers.with_mask(tf.ones(1), None)) is None


def test_mask_of():
    outputs = keras.layers.Masking()(tf.constant([[[1.0], [0.0]]]))
    np.testing.assert_array_equal(layers.mask_of(outputs), [[True, False]])


def test_take_name_of():
    @keras.saving.register_keras_serializable(package="insides")
    class Named(keras.layers.Layer):
        pass

    class Made(Named):
        pass

    layers.take_name_of(Named, Made)
    assert keras.saving.get_registered_name(Made) == "insides>Named"
    assert keras.saving.get_registered_object("insides>Named") is Named


def test_public_module():
    class Own(keras.layers.Layer):
        pass

    assert layers.public_module(keras.layers.Dense) == "keras.layers"
    assert layers.public_module(Own) == __name__
    config = keras.saving.serialize_keras_object(keras.layers.Dense(1))
    assert config["module"] == "keras.layers"
