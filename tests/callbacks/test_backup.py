"""Killed at any moment, training goes on from the last whole backup as if nothing had happened.

Processes that are really killed are in tests/test_faults.py; here an exception stops `fit` at the
worst moments.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import signal
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn
from tf_kfgn.callbacks import BackupAndRestore, backup_file

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None

EPOCHS, BATCHES, BATCH_SIZE = 4, 3, 16
SETTINGS = {"factor_period": 2, "inverse_period": 3, "damping_period": 2}

generator = np.random.default_rng(0)
X = generator.normal(size=(BATCHES * BATCH_SIZE, 5)).astype("float32")
Y = np.tanh(X[:, :2]) + 0.1


class Killed(BaseException):
    """What no `except Exception` catches."""


class Training:
    """A compiled model, which starts over as a rerun script would; its steps are traced once."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        layers = [
            keras.layers.Dense(4, "tanh"),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
        self.model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((5,)), *layers]))
        self.model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
        self.model.optimizer.build(self.model.trainable_variables)
        self.initial = self.state()
        self.whole = self.fit()

    @property
    def variables(self) -> list:
        return [*self.model.variables, *self.model.optimizer.variables]

    def state(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.variables]

    def start_over(self) -> None:
        for variable, value in zip(self.variables, self.initial, strict=True):
            variable.assign(value)
        self.model._initial_epoch = None

    def fit(self, *callbacks: keras.callbacks.Callback, epochs: int = EPOCHS) -> list[np.ndarray]:
        """Train in what might be a new process; the state afterwards."""
        self.start_over()
        arguments = {"shuffle": False, "verbose": 0, "callbacks": list(callbacks)}
        self.model.fit(X, Y, BATCH_SIZE, epochs=epochs, **arguments)
        return self.state()


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Leave the seeds alone: to set them makes TensorFlow optimise every graph anew."""


@pytest.fixture(scope="module")
def training() -> Training:
    keras.utils.set_random_seed(0)
    return Training(tf_kfgn.KFAC(**SETTINGS, use_ema=True, seed=1))


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    return tmp_path / "backups"


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


class Stop(keras.callbacks.Callback):
    """Stops `fit` at the end of a batch, or the start of an epoch."""

    def __init__(self, epoch: int, batch: int | None = None) -> None:
        super().__init__()
        self.moment = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self.moment == (epoch, None):
            raise Killed

    def on_train_batch_end(self, batch, logs=None):
        if self.moment == (self.epoch, batch):
            raise Killed


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Kills


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


# Files


def test_one_backup_is_kept_and_none_in_the_end(training, folder):
    seen = []
    see = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(names(folder)))
    training.fit(BackupAndRestore(folder), see)
    assert seen == [[f"epoch-0000000{epoch}.npz"] for epoch in (1, 2, 3, 4)]
    assert not folder.exists()


def test_two_backups_are_kept(training, folder):
    with pytest.raises(Killed):
        training.fit(BackupAndRestore(folder, double_checkpoint=True), Stop(3))
    assert names(folder) == ["epoch-00000002.npz", "epoch-00000003.npz"]


def test_a_finished_training_goes_on(training, folder):
    training.fit(BackupAndRestore(folder, delete_checkpoint=False), epochs=2)
    assert names(folder) == ["epoch-00000002.npz"]
    assert same(training.fit(BackupAndRestore(folder)), training.whole)


def test_the_next_fit_starts_at_the_first_epoch(training, folder):
    with pytest.raises(Killed):
        training.fit(BackupAndRestore(folder), Stop(3))
    training.fit(BackupAndRestore(folder))
    training.model.fit(X, Y, BATCH_SIZE, epochs=1, verbose=0)
    assert int(training.model.optimizer.iterations) == (EPOCHS + 1) * BATCHES


def test_leftovers_are_ignored_and_removed_and_other_files_are_not(training, folder):
    folder.mkdir()
    for name in ("epoch-00000003.npz.partial", "epoch-00000009.npz.partial", "notes.txt"):
        (folder / name).write_bytes(b"half")
    assert same(training.fit(BackupAndRestore(folder)), training.whole)
    assert names(folder) == ["notes.txt"]


@pytest.fixture
def two_backups(training, folder) -> pathlib.Path:
    with pytest.raises(Killed):
        training.fit(BackupAndRestore(folder, double_checkpoint=True), Stop(3))
    return folder


def damage(path: pathlib.Path, kept: float) -> None:
    os.truncate(path, int(kept * path.stat().st_size))


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.999])
def test_behind_a_damaged_backup_the_one_before_is_used(training, two_backups, kept, caplog):
    damage(two_backups / "epoch-00000003.npz", kept)
    assert same(training.fit(BackupAndRestore(two_backups)), training.whole)
    assert "epoch-00000003.npz is damaged" in caplog.text


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.999])
def test_where_every_backup_is_damaged_nothing_changes(training, two_backups, kept):
    for path in two_backups.iterdir():
        damage(path, kept)
    before = names(two_backups)
    with pytest.raises(OSError, match="Delete it to train from the start"):
        training.fit(BackupAndRestore(two_backups))
    assert same(training.state(), training.initial)
    assert names(two_backups) == before


def test_an_array_under_the_name_of_a_backup_is_damage(training, two_backups, caplog):
    with (two_backups / "epoch-00000003.npz").open("wb") as file:
        np.save(file, np.ones(3))
    assert same(training.fit(BackupAndRestore(two_backups)), training.whole)
    assert "epoch-00000003.npz is damaged" in caplog.text


@pytest.mark.skipif(resource is None, reason="limits the size of files")
def test_a_full_disk_leaves_the_old_backup_and_nothing_else(training, folder):
    with pytest.raises(Killed):
        training.fit(BackupAndRestore(folder), Stop(2))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError):
            training.fit(BackupAndRestore(folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(folder) == ["epoch-00000002.npz"]
    assert same(training.fit(BackupAndRestore(folder)), training.whole)


def test_every_flipped_bit_of_a_value_is_noticed(training, two_backups):
    path = two_backups / "epoch-00000003.npz"
    content = path.read_bytes()
    for value in (v.numpy().tobytes() for v in training.variables if v.shape):
        position = content.find(value)
        if position < 0:
            continue  # this variable has changed since
        flipped = bytearray(content)
        flipped[position + len(value) // 2] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(OSError, match="is damaged"):
            backup_file.read(path, training.variables)


def test_the_backup_of_another_model_is_refused_and_nothing_changes(training, two_backups):
    model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]))
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse", jit_compile=False)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"holds \d+ variables, but the model and its optimizer"):
        model.fit(X, Y, verbose=0, callbacks=[BackupAndRestore(two_backups)])
    assert same(model.get_weights(), before)


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
