"""RefreshBatchNormalization: the data it takes, used by validation, and nothing else changes."""

from __future__ import annotations

import json
import logging
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from refreshed import FIT, OPTIMIZERS, X, Y, assert_statistics, compiled, small, statistics

import tf_kfgn
from tf_kfgn.callbacks import (
    BackupAndRestore,
    RefreshBatchNormalization,
    refresh_batch_normalization,
)

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
