"""The callbacks of Keras with each optimizer; BackupAndRestore is in test_backup.py."""

from __future__ import annotations

import csv
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_training import (
    BATCH,
    FIT,
    OPTIMIZERS,
    X,
    Y,
    assert_close,
    assert_same,
    differ,
    made,
    state,
    stock,
    traced,
)

LambdaCallback = keras.callbacks.LambdaCallback
BATCHES = len(X) // BATCH


@pytest.fixture(params=OPTIMIZERS)
def name(request):
    return request.param


def fit(name, *callbacks, **arguments):
    """Weights, state and history after training from the start."""
    history = {}

    def train(model):
        arguments.setdefault("x", X), arguments.setdefault("y", Y)
        fitted = model.fit(**{**FIT, **arguments}, callbacks=list(callbacks))
        history.update(fitted.history)

    return *traced(name).after(train), history


def worse_and_worse(name):
    """Validation that asks for what the model predicts before it is trained."""
    outputs = {}
    traced(name).after(lambda model: outputs.update(y=model.predict(X, verbose=0)))
    return {"validation_data": (X, outputs["y"])}


class Recorded(keras.callbacks.Callback):
    """Weights after each epoch."""

    def on_train_begin(self, logs=None):
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


# Files


def test_a_checkpointed_model_continues_training_as_if_it_had_not_been_saved(name, tmp_path):
    # Keras saves no seeds of dropout layers, which would start over.
    model = made(OPTIMIZERS[name](), stock(dropout=0.0))
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    model.fit(X[:16], Y[:16], **FIT, epochs=3, callbacks=[checkpoint])
    loaded = keras.models.load_model(tmp_path / "2.keras")
    assert any(differ(loaded.get_weights(), model.get_weights()))
    loaded.fit(X[:16], Y[:16], **FIT, initial_epoch=2, epochs=3)
    assert_same(state(loaded), state(model))


def test_the_best_weights_alone_are_kept(name, tmp_path):
    path = tmp_path / "best.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_best_only=True, save_weights_only=True)
    recorder = Recorded()
    weights, _, history = fit(name, checkpoint, recorder, epochs=3, **worse_and_worse(name))
    best = int(np.argmin(history["val_loss"]))
    # The short steps of this HessianFree end nearest to the start.
    assert best < 2 or name == "HessianFree"
    model = stock()
    model.load_weights(path)
    assert_same(model.get_weights(), recorder.weights[best])
    assert any(differ(model.get_weights(), weights)) or best == 2


def test_the_log_in_a_table_has_damping_and_step_size(name, tmp_path):
    *_, history = fit(name, keras.callbacks.CSVLogger(tmp_path / "log.csv"), epochs=2)
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["epoch", "damping", "loss", "step_size"]
    for column in ("loss", "damping", "step_size"):
        np.testing.assert_allclose([float(row[column]) for row in rows], history[column])


def test_tensorboard_gets_loss_damping_and_step_size(name, tmp_path):
    callback = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1, write_graph=False)
    _, reached, history = fit(name, callback, epochs=2, **worse_and_worse(name))
    _, plain, _ = fit(name, epochs=2, **worse_and_worse(name))
    assert_same(reached, plain)
    written = {}
    for path in pathlib.Path(tmp_path).rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag.startswith("epoch_"):
                    key = f"{path.parent.name}/{value.tag}"
                    written.setdefault(key, []).append(float(tf.make_ndarray(value.tensor)))
    for column in ("loss", "damping", "step_size"):
        np.testing.assert_allclose(written[f"train/epoch_{column}"], history[column], rtol=1e-6)
    np.testing.assert_allclose(written["validation/epoch_loss"], history["val_loss"], rtol=1e-6)


# When to stop


def test_early_stopping_restores_the_best_weights(name):
    recorder = Recorded()
    stopping = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
    weights, _, history = fit(name, recorder, stopping, epochs=9, **worse_and_worse(name))
    best = int(np.argmin(history["val_loss"]))
    assert len(history["loss"]) == best + 2 < 9
    assert_same(weights, recorder.weights[best])
    assert any(differ(weights, recorder.weights[-1]))


def test_training_stops_at_a_batch_of_nan_which_moves_nothing(name, capsys):
    spoilt = X.copy()
    spoilt[BATCH + 1, 2] = np.nan
    weights, _, history = fit(name, keras.callbacks.TerminateOnNaN(), x=spoilt, epochs=3)
    assert len(history["loss"]) == 1 and np.isnan(history["loss"][0])
    assert "Batch 1: Invalid loss, terminating training" in capsys.readouterr().out
    optimizer = traced(name).model.optimizer
    assert (int(optimizer.iterations), int(optimizer.nonfinite_steps)) == (2, 1)
    good, _, _ = fit(name, x=X[:BATCH], y=Y[:BATCH])
    assert_same(weights, good)


# Learning rates


def test_learning_rates_of_a_scheduler_and_on_a_plateau_scale_the_steps(name):
    plateau = keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.25, patience=1, min_delta=100.0, min_lr=0.0
    )
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: [1.0, 1.0, 0.25][epoch])
    unscheduled, _, _ = fit(name, epochs=3)
    reduced, _, history = fit(name, plateau, epochs=3)
    scheduled, _, other = fit(name, scheduler, epochs=3)
    np.testing.assert_allclose(history["learning_rate"], [1.0, 1.0, 0.25])
    np.testing.assert_allclose(other["learning_rate"], [1.0, 1.0, 0.25])
    assert_same(scheduled, reduced)
    assert all(differ(scheduled, unscheduled))


def test_a_quarter_of_the_learning_rate_is_a_quarter_of_the_step(name):
    start = traced(name).after(lambda model: None)[0]
    steps = []
    for rate in (1.0, 0.25):
        scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, _, rate=rate: rate)
        weights, _, _ = fit(name, scheduler, x=X[:BATCH], y=Y[:BATCH])
        steps.append([after - before for after, before in zip(weights, start, strict=True)])
    for whole, part in zip(*steps, strict=True):
        np.testing.assert_allclose(part, 0.25 * whole, rtol=1e-4, atol=1e-6)


# What callbacks see


def test_the_logs_of_each_batch_have_the_damping_and_step_size_after_it(name):
    seen, expected = [], []

    def record(batch, logs):
        optimizer = traced(name).model.optimizer
        seen.append((logs["damping"], logs["step_size"]))
        expected.append((float(optimizer.damping), float(optimizer.step_size)))

    _, _, history = fit(name, LambdaCallback(on_train_batch_end=record))
    np.testing.assert_allclose(seen, expected)
    # HessianFree goes the whole way to the minimiser.
    assert len({step_size for _, step_size in seen}) == (1 if name == "HessianFree" else BATCHES)
    assert history["damping"] == [seen[-1][0]]


def test_the_progress_bar_shows_damping_and_step_size(name, capsys):
    _, _, history = fit(name, verbose=2)
    shown = capsys.readouterr().out
    for column in ("loss", "damping", "step_size"):
        assert f"{column}: {history[column][0]:.4f}" in shown


def test_validation_sees_the_moving_average_that_is_swapped_in(name):
    results = {}
    for swap in (False, True):
        model = made(OPTIMIZERS[name](use_ema=True, ema_momentum=0.5))
        seen, training = [], []
        spies = [
            LambdaCallback(
                on_train_batch_end=lambda batch, logs, m=model, s=training: s.append(
                    m.get_weights()
                )
            ),
            *([keras.callbacks.SwapEMAWeights()] if swap else []),
        ]
        watch = LambdaCallback(
            on_test_batch_begin=lambda batch, logs, m=model, s=seen: s.append(m.get_weights())
        )
        arguments = {"validation_data": (X[:BATCH], Y[:BATCH]), "epochs": 2}
        model.fit(X[:16], Y[:16], **FIT, **arguments, callbacks=[*spies, watch])
        results[swap] = training, seen, model.get_weights()
    for one, other in zip(results[True][0], results[False][0], strict=True):
        assert_close(one, other)  # swapping rounds
    averages = [results[False][0][0]]
    for weights in results[False][0][1:]:
        averages.append([0.5 * a + 0.5 * w for a, w in zip(averages[-1], weights, strict=True)])
    for epoch in (0, 1):
        last = 2 * epoch + 1
        assert_close(results[True][1][epoch], averages[last])
        assert_same(results[False][1][epoch], results[False][0][last])
        assert all(differ(averages[last], results[False][0][last]))
    assert_close(results[True][2], averages[-1])
