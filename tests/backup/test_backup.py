"""Killed at any moment, training goes on from the last whole backup as if nothing had happened.

Processes that are really killed are in tests/test_faults.py; here an exception stops `fit` at the
worst moments.
"""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from backups import BATCH_SIZE, BATCHES, EPOCHS, SETTINGS, Killed, Stop, Training, X, Y, same

import tf_kfgn
from tf_kfgn.callbacks import BackupAndRestore


def at_call(function: Callable, number: int, before: Callable = lambda *_: None) -> Callable:
    """A function whose call of this number, from 1, is the last thing that happens."""
    calls = itertools.count(1)

    def called(*args, **kwargs):
        if next(calls) == number:
            before(*args, **kwargs)
            raise Killed
        return function(*args, **kwargs)

    return called


def half(file, **values):
    file.write(b"PK\x03\x04, and then the lights went out")


KILLS = {
    "before anything is written": (np, "savez", 2, lambda *_, **__: None),
    "while the first backup is written": (np, "savez", 1, half),
    "while a backup is written": (np, "savez", 3, half),
    "before it is on the disk": (os, "fsync", 3, lambda *_: None),
    "before it is renamed": (os, "replace", 2, lambda *_: None),
    "after it was renamed": (os, "replace", 2, os.replace),
    "before the renaming is on the disk": (os, "fsync", 4, lambda *_: None),
    "before the old one is removed": (pathlib.Path, "unlink", 1, lambda *_, **__: None),
    "after the old one was removed": (pathlib.Path, "unlink", 2, pathlib.Path.unlink),
    "in the last epoch": (os, "replace", EPOCHS, os.replace),
    "before the last one is removed": (pathlib.Path, "unlink", EPOCHS, lambda *_, **__: None),
    "after the last one was removed": (pathlib.Path, "rmdir", 1, lambda *_: None),
}


@pytest.mark.parametrize(("owner", "name", "number", "before"), KILLS.values(), ids=KILLS.keys())
def test_killed_around_a_backup(training, folder, monkeypatch, owner, name, number, before):
    function = getattr(owner, name)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(owner, name, at_call(function, number, before))
        training.fit(BackupAndRestore(folder))
    assert same(training.fit(BackupAndRestore(folder)), training.whole)
    assert not folder.exists()


@pytest.mark.parametrize("moment", [(0, 0), (1, 1), (2, 2), (3, None)])
def test_killed_between_steps(training, folder, moment):
    with pytest.raises(Killed):
        training.fit(BackupAndRestore(folder), Stop(*moment))
    assert same(training.fit(BackupAndRestore(folder)), training.whole)


def test_killed_again_and_again(training, folder):
    for moment in [(0, 1), (1, None), (1, 2), (1, 0), (3, 1)]:
        with pytest.raises(Killed):
            training.fit(BackupAndRestore(folder), Stop(*moment))
    assert same(training.fit(BackupAndRestore(folder)), training.whole)


def test_the_callback_itself_changes_nothing(training, folder):
    assert same(training.fit(BackupAndRestore(folder)), training.whole)


def test_the_test_notices_what_is_not_restored(training):
    with pytest.raises(Killed):
        training.fit(Stop(2))
    stopped = training.state()
    training.start_over()
    assert same(training.state(), training.initial)
    assert not same(training.state(), stopped)


def test_keras_own_callback_repeats_an_epoch(training, folder, monkeypatch):
    save = training.model.save_weights

    def killed_afterwards(*args, **kwargs):
        save(*args, **kwargs)
        raise Killed  # the epoch is in a second file

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(training.model, "save_weights", killed_afterwards)
        training.fit(keras.callbacks.BackupAndRestore(folder))
    training.fit(keras.callbacks.BackupAndRestore(folder))
    assert int(training.model.optimizer.iterations) == (EPOCHS + 1) * BATCHES


def test_keras_own_callback_is_left_with_a_damaged_file(training, folder, monkeypatch):
    save = training.model.save_weights

    def killed_meanwhile(filepath, **kwargs):
        save(filepath, **kwargs)
        os.truncate(filepath, os.path.getsize(filepath) // 2)
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(training.model, "save_weights", killed_meanwhile)
        training.fit(keras.callbacks.BackupAndRestore(folder))
    with pytest.raises(OSError):
        training.fit(keras.callbacks.BackupAndRestore(folder))


# The order of the data


class Shuffled:
    """Batches in an order of each epoch, drawn from the number of updates so far."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    def __call__(self):
        for step in itertools.count(int(self.model.optimizer.iterations)):
            order = np.random.default_rng(step // BATCHES).permutation(len(X))
            rows = np.split(order, BATCHES)[step % BATCHES]
            yield X[rows], Y[rows]


def test_an_order_that_depends_on_the_updates_continues_within_what_was_an_epoch(training, folder):
    signature = tuple(tf.TensorSpec((BATCH_SIZE, *a.shape[1:]), "float32") for a in (X, Y))

    def fit(*callbacks):
        training.start_over()
        data = tf.data.Dataset.from_generator(Shuffled(training.model), output_signature=signature)
        arguments = {"epochs": 2 * BATCHES, "steps_per_epoch": 2, "shuffle": False, "verbose": 0}
        training.model.fit(data.prefetch(2), callbacks=list(callbacks), **arguments)
        return training.state()

    whole = fit()
    for moment in [(1, 1), (4, 0)]:
        with pytest.raises(Killed):
            fit(BackupAndRestore(folder), Stop(*moment))
    assert same(fit(BackupAndRestore(folder)), whole)
    assert int(training.model.optimizer.iterations) == 4 * BATCHES


def test_a_seeded_order_of_fit_is_the_same_in_every_epoch_and_continues(training, folder):
    def fit(*callbacks):
        keras.utils.set_random_seed(0)  # as the script does when it is rerun
        training.start_over()
        arguments = {"epochs": EPOCHS, "shuffle": True, "verbose": 0}
        training.model.fit(X, Y, BATCH_SIZE, callbacks=list(callbacks), **arguments)
        return training.state()

    whole = fit()
    assert not same(whole, training.whole)
    with pytest.raises(Killed):
        fit(BackupAndRestore(folder), Stop(2))
    assert same(fit(BackupAndRestore(folder)), whole)


def test_an_order_that_counts_the_epochs_of_the_process_does_not_continue(training, folder):
    def fit(*callbacks):
        training.start_over()
        data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(len(X), seed=0).batch(BATCH_SIZE)
        arguments = {"epochs": EPOCHS, "shuffle": False, "verbose": 0}
        training.model.fit(data, callbacks=list(callbacks), **arguments)
        return training.state()

    whole = fit()
    assert same(fit(), whole)
    with pytest.raises(Killed):
        fit(BackupAndRestore(folder), Stop(2))
    assert not same(fit(BackupAndRestore(folder)), whole)


# Other optimizers, and arguments


OPTIMIZERS = {
    "accumulating": lambda: tf_kfgn.KFLR(**SETTINGS, gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_other_optimizers(folder, optimizer):
    training = Training(optimizer())
    with pytest.raises(Killed):
        training.fit(BackupAndRestore(folder), Stop(2, 1))
    assert same(training.fit(BackupAndRestore(folder)), training.whole)


def test_it_takes_the_place_of_keras_own():
    assert issubclass(BackupAndRestore, keras.callbacks.BackupAndRestore)


@pytest.mark.parametrize("save_freq", [1, 100, False, 0, "batch"])
def test_backups_within_an_epoch_are_refused(folder, save_freq):
    with pytest.raises(ValueError, match="`save_freq` must be 'epoch', but got"):
        BackupAndRestore(folder, save_freq=save_freq)


def test_a_remote_folder_is_refused():
    with pytest.raises(ValueError, match="must be a local folder"):
        BackupAndRestore("gs://bucket/folder")


def test_no_folder_is_refused():
    with pytest.raises(ValueError, match="backup_dir"):
        BackupAndRestore("")


def test_a_backup_of_keras_own_is_refused(training, folder):
    with pytest.raises(Killed):
        training.fit(keras.callbacks.BackupAndRestore(folder), Stop(2))
    with pytest.raises(ValueError, match=r"holds a backup of keras\.callbacks\.BackupAndRestore"):
        training.fit(BackupAndRestore(folder))


def test_a_model_that_is_not_built_is_refused(folder):
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile(optimizer="sgd", loss="mse")
    with pytest.raises(ValueError, match="needs a model that is built"):
        model.fit(X, Y, verbose=0, callbacks=[BackupAndRestore(folder)])
