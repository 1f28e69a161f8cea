"""RefreshBatchNormalization: exact statistics, used by validation, and nothing else changes."""

from __future__ import annotations

import functools
import json
import logging
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn
from tf_kfgn.callbacks import (
    BackupAndRestore,
    RefreshBatchNormalization,
    refresh_batch_normalization,
)

OPTIMIZERS = {
    "SGD": keras.optimizers.SGD,
    "KFRA": tf_kfgn.KFRA,
    "KFLR": tf_kfgn.KFLR,
    "KFAC": functools.partial(tf_kfgn.KFAC, seed=0),
    "HessianFree": functools.partial(tf_kfgn.HessianFree, max_cg_iterations=2, backtracking=False),
}
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(3, 2, size=(50, 4)).astype("float32")
Y = np.tanh(X[:, :2]).astype("float32")
FIT = {"batch_size": 10, "shuffle": False, "verbose": 0}


def double(layer, *args, **kwargs):
    return getattr(keras.layers, layer)(*args, dtype="float64", **kwargs)


def small(*more, **kwargs):
    """A model whose normalisation lags far behind, for it is trained for few updates."""
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(name="norm", **kwargs)
    layers = [keras.layers.Dense(5, "tanh", name="first"), norm, *more]
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)])


def compiled(model=None, optimizer="sgd", **kwargs):
    model = model or small()
    model.compile(optimizer, "mse", **{"jit_compile": False, **kwargs})
    return model


def statistics(layer):
    return [layer.moving_mean.numpy(), layer.moving_variance.numpy()]


def assert_statistics(layer, inputs, rtol=1e-5, axes=0):
    expected = np.mean(inputs, axes), np.var(inputs, axes)
    for found, right in zip(statistics(layer), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=rtol, atol=1e-7 if rtol > 1e-9 else 0)


# The statistics


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


# The data


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        part = slice(10 * index, 10 * index + 10)
        return X[part], Y[part]


@pytest.mark.parametrize(
    "data",
    [
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(10),
        Batches(),
        [(X[i : i + 10], Y[i : i + 10]) for i in range(0, 50, 10)].__class__,
    ],
    ids=["tf.data", "PyDataset", "iterable"],
)
def test_targets_of_datasets_are_left_out(data):
    if data is list:  # anything that can be gone through again

        class Loader:
            def __iter__(self):
                return iter([(X[i : i + 10], Y[i : i + 10]) for i in range(0, 50, 10)])

        data = Loader()
    model = small()
    for _ in range(2):
        refresh_batch_normalization(model, data)
        assert_statistics(model.get_layer("norm"), model.layers[0](X))
    refresh_batch_normalization(model, data, batches=2)
    assert_statistics(model.get_layer("norm"), model.layers[0](X[:20]))


def test_some_batches_of_arrays_are_always_the_same_and_of_all_places():
    x = np.sort(np.random.default_rng(1).normal(size=(1000, 1)), axis=0).astype("float32")
    layer = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((1,)), layer])
    refresh_batch_normalization(model, x, batch_size=100, batches=2)
    first = statistics(layer)
    assert abs(first[0][0]) < 0.2  # the first examples alone have a mean of -1.4
    assert first[1][0] > 0.7
    refresh_batch_normalization(model, x, batch_size=100, batches=2)
    for old, new in zip(first, statistics(layer), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": iter([X])}, "gone through again and again"),
        ({"x": 3}, "`x` must be the inputs that fit"),
        ({"x": [X, X[:3]]}, r"same number of examples.*\(50, 4\), \(3, 4\)"),
        ({"x": X[:0]}, "at least one"),
        ({"x": X, "batch_size": 0}, "`batch_size` must be a whole number, at least 1"),
        ({"x": X, "batches": 1.5}, "`batches` must be a whole number of batches"),
        ({"x": Batches(), "batch_size": 3}, "`batch_size` is for arrays; `x` is a Batches"),
        ({"x": tf.data.Dataset.from_tensors(X).repeat()}, "without an end; say how many"),
    ],
    ids=["iterator", "number", "lengths", "empty", "batch_size", "batches", "dataset", "endless"],
)
def test_bad_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        RefreshBatchNormalization(**arguments)


def test_data_without_batches_or_a_model_that_is_not_built():
    model = small()
    before = statistics(model.get_layer("norm"))
    with pytest.raises(ValueError, match="`x` holds no batch"):
        refresh_batch_normalization(model, tf.data.Dataset.from_tensors(X).take(0))
    with pytest.raises(Exception, match="shape"):
        refresh_batch_normalization(model, X[:, :2])
    assert "call" not in vars(model.get_layer("norm"))
    for old, new in zip(before, statistics(model.get_layer("norm")), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(ValueError, match="has not been built"):
        refresh_batch_normalization(keras.Sequential([keras.layers.Dense(2)]), X)
    with pytest.raises(TypeError, match="`model` must be"):
        refresh_batch_normalization(X, X)


def test_statistics_that_are_not_finite_are_not_taken(caplog):
    model = small()
    model.layers[0].kernel.assign(np.full((4, 5), np.nan))
    with caplog.at_level(logging.WARNING, "tf_kfgn"):
        refresh_batch_normalization(model, X)
    assert "norm" in caplog.text
    assert np.isfinite(statistics(model.get_layer("norm"))).all()


# In `fit`


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_validation_and_the_trained_model_use_them(name):
    def trained(*callbacks):
        model = small()
        if name != "SGD":
            tf_kfgn.enable_curvature(model)
        compiled(model, OPTIMIZERS[name](), run_eagerly=name == "HessianFree")
        history = model.fit(
            X, Y, **FIT, epochs=2, validation_data=(X, Y), callbacks=list(callbacks)
        )
        return model, history.history["val_loss"]

    model, losses = trained(RefreshBatchNormalization(X, batch_size=10))
    hidden = np.asarray(model.layers[0](X))
    assert_statistics(model.get_layer("norm"), hidden)
    normalised = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-3)
    layer = model.get_layer("norm")
    outputs = model.layers[-1](normalised * layer.gamma.numpy() + layer.beta.numpy())
    assert losses[-1] == pytest.approx(np.mean((outputs - Y) ** 2), rel=1e-4)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(losses[-1], rel=1e-5)
    if name != "SGD":
        _, stale = trained()
        assert losses[-1] < 0.8 * stale[-1]


class Counting(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append([v.numpy() for v in self.model.trainable_variables])


@pytest.mark.parametrize("kwargs", [{}, {"renorm": True}], ids=["plain", "renorm"])
def test_training_is_bitwise_the_same(kwargs):
    runs = []
    for with_refresh in (False, True):
        try:
            model = small(keras.layers.Dropout(0.5, seed=2), **kwargs)
        except (TypeError, ValueError):
            pytest.skip("this Keras has no renorm")
        counting = Counting()
        callbacks = [counting, *([RefreshBatchNormalization(X, 10)] if with_refresh else [])]
        compiled(model, "adam", metrics=["mae"]).fit(
            X, Y, **FIT, epochs=3, validation_data=(X, Y), callbacks=callbacks
        )
        runs.append((counting.weights, model.history.history))
    for one, other in zip(*(weights for weights, _ in runs), strict=True):
        for first, second in zip(one, other, strict=True):
            np.testing.assert_array_equal(first, second)
    assert runs[0][1]["mae"] == runs[1][1]["mae"]
    assert runs[0][1]["val_loss"] != runs[1][1]["val_loss"]


def test_a_checkpoint_holds_what_was_validated(tmp_path):
    path = tmp_path / "{epoch}.keras"
    model = compiled()
    callbacks = [keras.callbacks.ModelCheckpoint(path), RefreshBatchNormalization(X, 10)]
    history = model.fit(X, Y, **FIT, epochs=2, validation_data=(X, Y), callbacks=callbacks)
    loaded = keras.models.load_model(tmp_path / "1.keras")
    expected = history.history["val_loss"][0]
    assert loaded.evaluate(X, Y, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_training_continues_from_a_backup_as_if_it_had_not_ended(tmp_path):
    def trained(epochs, *backups):
        model = compiled(optimizer="adam")
        callbacks = [RefreshBatchNormalization(X, 10), *backups]
        model.fit(X, Y, **FIT, epochs=epochs, validation_data=(X, Y), callbacks=callbacks)
        return [v.numpy() for v in model.variables]

    def backup():
        return BackupAndRestore(tmp_path, delete_checkpoint=False)

    trained(2, backup())
    for one, other in zip(trained(4, backup()), trained(4), strict=True):
        np.testing.assert_array_equal(one, other)


def test_averaged_weights_have_statistics_of_their_own():
    model = compiled(optimizer=keras.optimizers.SGD(0.3, use_ema=True, ema_momentum=0.5))
    seen = {}

    class Look(keras.callbacks.Callback):
        def on_test_end(self, logs=None):  # before the weights are swapped back
            seen.update(weights=self.model.get_weights())

    swap = keras.callbacks.SwapEMAWeights()
    callbacks = [Look(), swap, RefreshBatchNormalization(X, 10)]
    model.fit(X, Y, **FIT, validation_data=(X, Y), callbacks=callbacks)
    other = small()
    other.set_weights(seen["weights"])
    assert_statistics(other.get_layer("norm"), other.layers[0](X))
    # At the end of fit the average becomes the weights.
    assert_statistics(model.get_layer("norm"), model.layers[0](X))


def test_layers_frozen_between_two_trainings():
    model = compiled()
    refresh = RefreshBatchNormalization(X, 10)
    model.fit(X, Y, **FIT, callbacks=[refresh])
    before = statistics(model.get_layer("norm"))
    model.get_layer("norm").trainable = False
    compiled(model).fit(X, Y, **FIT, callbacks=[refresh])
    for old, new in zip(before, statistics(model.get_layer("norm")), strict=True):
        np.testing.assert_array_equal(old, new)


def test_evaluate_outside_of_fit_and_eager_models():
    model = compiled(run_eagerly=True)
    loss = model.evaluate(X, Y, verbose=0, callbacks=[RefreshBatchNormalization(X, 10)])
    assert_statistics(model.get_layer("norm"), model.layers[0](X))
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(loss, rel=1e-5)


def test_without_batch_normalisation_there_is_a_warning_and_nothing_else(caplog):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with caplog.at_level(logging.WARNING, "tf_kfgn"):
        compiled(model).fit(
            X, Y, **FIT, epochs=3, validation_data=(X, Y),
            callbacks=[RefreshBatchNormalization(X)],
        )  # fmt: skip
    assert caplog.text.count("has nothing to do") == 1


@pytest.mark.slow
@pytest.mark.parametrize("synchronized", [False, True])
def test_under_a_strategy(synchronized):
    script = pathlib.Path(__file__).parent.parent / "refresh_on_two_replicas.py"
    result = subprocess.run(
        [sys.executable, script, str(synchronized)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found, expected = json.loads(result.stdout.splitlines()[-1])
    for replica in found:
        np.testing.assert_allclose(replica, expected, rtol=1e-5)
