"""Models of classes of the user's own, saved while they are enabled, load and go on."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn

generator = np.random.default_rng(0)
X = generator.normal(size=(16, 3)).astype("float32")
Y = generator.normal(size=(16, 2)).astype("float32")


@keras.saving.register_keras_serializable(package="my")
class MyModel(keras.Model):
    pass


@keras.saving.register_keras_serializable(package="my")
class MySequential(keras.Sequential):
    pass


@keras.saving.register_keras_serializable(package="my")
class MyNetwork(keras.Model):
    """Makes its layers itself, which a file does not name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.last = keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)

    def call(self, x):
        return self.last(self.hidden(x))


def functional():
    inputs = keras.Input((3,))
    return MyModel(inputs, keras.layers.Dense(2)(keras.layers.Dense(4, "tanh")(inputs)))


def sequential():
    return MySequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)])


def subclassed():
    model = MyNetwork()
    model(X)
    return model


def compiled(model):
    optimizer = tf_kfgn.KFAC(seed=0, factor_period=1)
    tf_kfgn.enable_curvature(model).compile(optimizer, "mse", run_eagerly=True)
    return model


@pytest.mark.parametrize("make", [functional, sequential, subclassed])
def test_a_registered_class_loads_and_goes_on(make, tmp_path, caplog):
    model = compiled(make())
    for _ in range(2):
        model.train_on_batch(X, Y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
    if make is subclassed:
        assert "Call tf_kfgn.enable_curvature(model) before it trains" in caplog.text
        with pytest.raises(ValueError, match="record no curvature"):
            loaded.train_on_batch(X, Y)
    tf_kfgn.enable_curvature(loaded)
    loaded.run_eagerly = True
    model.train_on_batch(X, Y)
    loaded.train_on_batch(X, Y)
    for one, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(loaded.optimizer.iterations) == 3
    assert int(loaded.optimizer.memory.scalars.factor_updates) == 3


def test_a_feature_space_loads(tmp_path):
    features = {"a": np.arange(8.0, dtype="float32"), "b": ["u", "v"] * 4}
    space = keras.utils.FeatureSpace(
        {"a": "float_normalized", "b": "string_categorical"}, output_mode="concat"
    )
    data = tf.data.Dataset.from_tensor_slices(features)
    space.adapt(data)
    outputs = keras.layers.Dense(2)(space.get_encoded_features())
    model = compiled(keras.Model(space.get_inputs(), outputs))
    batches = tf.data.Dataset.zip(data, tf.data.Dataset.from_tensor_slices(Y[:8])).batch(8)
    model.fit(batches, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    [(x, _)] = batches
    np.testing.assert_array_equal(loaded(x), model(x))
    assert set(tf_kfgn.curvature_summary(loaded, verbose=False))
