"""RefreshBatchNormalization: exact statistics."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from refreshed import FIT, GENERATOR, X, Y, assert_statistics, compiled, double, small

from tf_kfgn.callbacks import refresh_batch_normalization


def test_mean_and_variance_are_those_of_all_examples_at_once():
    x = np.random.default_rng(1).normal(3, 2, size=(103, 4))
    x[::7] += 100.0  # batches that differ
    model = keras.Sequential(
        [keras.Input((4,), dtype="float64"), double("Dense", 3), double("BatchNormalization")]
    )
    refresh_batch_normalization(model, x, batch_size=10)  # the last batch has 3
    inputs = np.asarray(model.layers[0](x))
    assert_statistics(model.layers[1], inputs, rtol=1e-10)
    # What averages over batches would give: the spread between them is missing.
    parts = [inputs[i : i + 10] for i in range(0, 103, 10)]
    mean_of_variances = np.mean([part.var(0) for part in parts], 0)
    assert not np.allclose(model.layers[1].moving_variance, mean_of_variances, rtol=1e-2)


def test_later_layers_see_what_they_see_in_training():
    x = np.random.default_rng(1).normal(3, 2, size=(30, 4))
    layers = [double("BatchNormalization"), double("Dense", 3, "tanh")]
    model = keras.Sequential(
        [keras.Input((4,), dtype="float64"), *layers, double("BatchNormalization")]
    )
    data = tf.data.Dataset.from_tensor_slices(x).batch(10)
    refresh_batch_normalization(model, data)
    seen = []
    for start in (0, 10, 20):
        part = x[start : start + 10]
        seen.append(layers[1]((part - part.mean(0)) / np.sqrt(part.var(0) + layers[0].epsilon)))
    assert_statistics(model.layers[0], x, rtol=1e-10)
    assert_statistics(model.layers[2], np.concatenate(seen), rtol=1e-10)
    # In inference mode the first layer would normalise all examples alike.
    alike = layers[1]((x - x.mean(0)) / np.sqrt(x.var(0) + layers[0].epsilon))
    assert not np.allclose(model.layers[2].moving_variance, np.var(alike, 0), rtol=1e-3)


@pytest.mark.parametrize("axis", [-1, 1])
def test_images_and_the_axis_of_their_channels(axis):
    x = np.random.default_rng(1).normal(size=(9, 5, 6, 3)) * [1, 2, 3]
    layer = double("BatchNormalization", axis=axis)
    model = keras.Sequential([keras.Input((5, 6, 3), dtype="float64"), layer])
    refresh_batch_normalization(model, x, batch_size=4)
    axes = tuple(other for other in range(4) if other != axis % 4)
    assert_statistics(layer, x, 1e-10, axes)


def test_masked_places_do_not_count_and_batches_may_differ_in_their_number():
    tokens = np.zeros((8, 6), "int32")
    for row, length in enumerate([1, 6, 2, 6, 3, 1, 1, 5]):
        tokens[row, :length] = GENERATOR.integers(1, 10, size=length)
    embedding = double("Embedding", 10, 3, mask_zero=True)
    layer = double("BatchNormalization")
    model = keras.Sequential([keras.Input((6,), dtype="int32"), embedding, layer])
    refresh_batch_normalization(model, tf.data.Dataset.from_tensor_slices(tokens).batch(2))
    vectors = np.asarray(embedding(tokens))
    assert_statistics(layer, vectors[tokens != 0], 1e-10)
    assert not np.allclose(layer.moving_mean, vectors.mean((0, 1)), rtol=1e-2)


def test_a_layer_used_twice_counts_both_uses():
    layer = double("BatchNormalization")
    one, other = (keras.Input((3,), dtype="float64", name=name) for name in "ab")
    model = keras.Model({"a": one, "b": other}, [layer(one), layer(other)])
    x = {"a": GENERATOR.normal(size=(8, 3)), "b": GENERATOR.normal(5, 2, size=(8, 3))}
    refresh_batch_normalization(model, x, batch_size=3)
    assert_statistics(layer, np.concatenate([x["a"], x["b"]]), 1e-10)


def test_a_layer_inside_a_loop_over_positions():
    layer = double("BatchNormalization")
    loop = keras.layers.TimeDistributed(layer, dtype="float64")
    x = GENERATOR.normal(2, 3, size=(12, 5, 3))
    model = keras.Sequential([keras.Input((5, 3), dtype="float64"), loop])
    refresh_batch_normalization(model, x, batch_size=4)
    assert_statistics(layer, x, 1e-10, (0, 1))


def test_nested_models_and_layers_that_hold_layers():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inside = keras.layers.BatchNormalization()

        def build(self, shape):
            self.inside.build(shape)

        def call(self, inputs, training=None):
            return self.inside(inputs, training=training)

    block = Block()
    inner = small(block)
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(1)])
    refresh_batch_normalization(model, X, batch_size=50)
    hidden = np.asarray(inner.layers[0](X))
    assert_statistics(inner.get_layer("norm"), hidden)
    normalised = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-3)
    np.testing.assert_allclose(block.inside.moving_variance, normalised.var(0), rtol=1e-4)


def test_frozen_layers_and_those_in_inference_mode_are_left_alone():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.frozen, self.called, self.trained = (
                keras.layers.BatchNormalization() for _ in range(3)
            )
            self.frozen.trainable = False

        def call(self, inputs, training=None):
            x = self.called(self.frozen(inputs, training=training), training=False)
            return self.trained(x, training=training)

    model = Model()
    model(X)
    frozen, called, trained = model.layers
    refresh_batch_normalization(model, X, batch_size=10)
    for layer in (frozen, called):
        np.testing.assert_array_equal(layer.moving_mean, np.zeros(4))
        np.testing.assert_array_equal(layer.moving_variance, np.ones(4))
    assert_statistics(trained, X / (1 + 1e-3))


def test_renorm_keeps_what_it_corrects_with():
    try:
        model = small(renorm=True)
    except (TypeError, ValueError):
        pytest.skip("this Keras has no renorm")
    layer = model.get_layer("norm")
    compiled(model).fit(X, Y, **FIT)
    before = [v.numpy() for v in (layer.renorm_mean, layer.renorm_stddev)]
    refresh_batch_normalization(model, X, batch_size=10)
    assert_statistics(layer, model.layers[0](X))
    np.testing.assert_allclose(
        layer.moving_stddev, np.sqrt(layer.moving_variance + layer.epsilon), rtol=1e-5
    )
    for old, new in zip(before, (layer.renorm_mean, layer.renorm_stddev), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_subclass_with_another_call():
    class Clipped(keras.layers.BatchNormalization):
        def call(self, values, training=None):
            return keras.ops.clip(super().call(values, training=training), -1, 1)

    layer = Clipped()
    model = keras.Sequential([keras.Input((4,)), layer])
    refresh_batch_normalization(model, X, batch_size=10)
    assert_statistics(layer, X)


def test_half_precision():
    layers = [
        keras.layers.Rescaling(20, dtype="mixed_float16"),
        keras.layers.BatchNormalization(dtype="mixed_float16", name="norm"),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    refresh_batch_normalization(model, X * 100, batch_size=50)
    # The sum of squares would overflow.
    assert_statistics(layers[1], np.float64(np.float16(X * 100) * np.float16(20)), 1e-3)
    assert layers[1].moving_mean.dtype == "float32"


def test_dropout_is_active_as_in_training_and_draws_the_same_afterwards():
    dropout = keras.layers.Dropout(0.5, seed=1)
    layer = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), dropout, layer])
    seeds = [v.numpy() for v in dropout.variables]
    refresh_batch_normalization(model, X, batch_size=50)
    for old, new in zip(seeds, dropout.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert_statistics(layer, dropout(X[:50], training=True), 1e-4)
    assert not np.allclose(layer.moving_variance, X.var(0), rtol=0.1)
