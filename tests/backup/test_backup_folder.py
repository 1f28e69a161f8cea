"""What lies in the folder of backups, when, and what happens where it is damaged."""

from __future__ import annotations

import os
import pathlib
import signal

import keras
import numpy as np
import pytest
from backups import BATCH_SIZE, BATCHES, EPOCHS, Killed, Stop, X, Y, names, same

import tf_kfgn
from tf_kfgn.callbacks import BackupAndRestore, backup_file

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None


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
