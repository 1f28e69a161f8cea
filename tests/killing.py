"""Trains in processes that are killed again and again; prints what came of it, as JSON.

A script of its own: it imports TensorFlow once and forks, which is sound only as long as nothing
has started TensorFlow's threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from tensorflow.python.eager import context

import tf_kfgn
from tf_kfgn.callbacks import BackupAndRestore

EPOCHS, BATCHES, BATCH_SIZE = 16, 4, 16
SETTINGS = {"factor_period": 2, "inverse_period": 3, "damping_period": 2}
OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "kfra": lambda: tf_kfgn.KFRA(**SETTINGS),
    "kflr": lambda: tf_kfgn.KFLR(**SETTINGS, use_ema=True),
    "kfac": lambda: tf_kfgn.KFAC(**SETTINGS, seed=1),
    "hessianfree": lambda: tf_kfgn.HessianFree(max_cg_iterations=2, backtracking=False),
}
# How many kills, and of which kind, for each optimizer.
KILLS = {
    "kfra": ["tracing", "backup", "batch", "backup", "batch", "backup", "tracing"],
    "kflr": ["batch", "tracing", "backup", "backup", "batch"],
    "kfac": ["backup", "batch", "backup", "tracing", "backup"],
    "hessianfree": ["batch", "backup", "tracing"],
}
BEGUN, TRAINED, DONE = b"b", b"t", b"d"

generator = np.random.default_rng(0)
X = generator.normal(size=(BATCHES * BATCH_SIZE, 5)).astype("float32")
Y = np.tanh(X[:, :2]) + 0.1


class Telling(keras.callbacks.Callback):
    """Tells the parent how far training is."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self.pipe = pipe

    def on_train_begin(self, logs=None):
        os.write(self.pipe, BEGUN)

    def on_train_batch_end(self, batch, logs=None):
        os.write(self.pipe, TRAINED)


def train(optimizer: str, result: pathlib.Path, callbacks: list[keras.callbacks.Callback]) -> None:
    """Train from the start, or from what a callback restores, to the end; save everything."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(6, "tanh"),
        keras.layers.Dropout(0.3),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(2),
    ]
    model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((5,)), *layers]))
    model.compile(optimizer=OPTIMIZERS[optimizer](), loss="mse", jit_compile=False)
    model.fit(X, Y, BATCH_SIZE, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks)
    np.savez(result, *(v.numpy() for v in (*model.variables, *model.optimizer.variables)))


def fork(work: Callable[[int], None]) -> tuple[int, int]:
    """Run something in a process of its own, which is told the end of a pipe to write to.

    Returns:
        Its number, and the end of the pipe to read from.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.close(reading)
            work(writing)
            os.write(writing, DONE)
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(status)
    os.close(writing)
    return process, reading


def finish(process: int, reading: int) -> None:
    """Wait for the end of a process that nobody kills."""
    _, status = os.waitpid(process, 0)
    os.close(reading)
    if status:
        raise RuntimeError(f"A process that nobody killed ended with status {status}.")


def written(folder: pathlib.Path) -> set[tuple[str, int]]:
    """What is half written, and when that was."""
    partial = {}
    with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
        partial = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.partial")}
    return set(partial.items())


def wait_for(kind: str, reading: int, folder: pathlib.Path, moments: random.Random) -> bytes:
    """Wait until training is where it shall be killed, or over; what it has told until then."""
    told, trained, old, files = b"", moments.randint(1, BATCHES + 2), written(folder), set()

    def reached() -> bool:
        if kind == "backup":  # the second, so that the first one is there to go on from
            files.update(name for name, _ in written(folder) - old)
            return len(files) == 2
        return BEGUN in told if kind == "tracing" else told.count(TRAINED) >= trained

    while DONE not in told and not reached():
        if select.select([reading], [], [], 0.0005)[0]:
            new = os.read(reading, 1024)
            if not new:
                break
            told += new
    time.sleep(moments.uniform(0, {"tracing": 1.5, "batch": 0.005, "backup": 0.001}[kind]))
    return told


def kill(
    kind: str, work: Callable[[int], None], folder: pathlib.Path, moments: random.Random
) -> bool:
    """Start training and kill it; whether it was still running."""
    process, reading = fork(work)
    told = wait_for(kind, reading, folder, moments)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    while new := os.read(reading, 1024):
        told += new
    os.close(reading)
    if BEGUN not in told or (os.WIFEXITED(status) and os.WEXITSTATUS(status)):
        raise RuntimeError(f"Training failed by itself, after {told!r}.")
    return DONE not in told


def is_same(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Whether two files of arrays are bitwise equal."""
    with np.load(first) as one, np.load(second) as other:
        return one.files == other.files and all(
            one[name].tobytes() == other[name].tobytes() for name in one.files
        )


def killed(optimizer: str, folder: pathlib.Path, moments: random.Random) -> dict[str, Any]:
    """Kill one training as often as planned, let it finish, and compare."""
    whole, result, backups = folder / "whole.npz", folder / "result.npz", folder / "backups"

    def work(pipe: int) -> None:
        train(optimizer, result, [BackupAndRestore(backups), Telling(pipe)])

    finish(*fork(lambda _: train(optimizer, whole, [])))
    epochs, torn, same = [], 0, []
    for kind in KILLS[optimizer]:
        while not kill(kind, work, backups, moments):  # it was over: the next one starts anew
            same.append(is_same(whole, result))
        epochs.append(max((int(path.stem[-2:]) for path in backups.glob("*.npz")), default=0))
        torn += any(backups.glob("*.partial"))
    finish(*fork(work))
    same.append(is_same(whole, result))
    return {"kills": KILLS[optimizer], "epochs": epochs, "torn": torn, "same": same}


def main(folder: pathlib.Path) -> None:
    threads = pathlib.Path("/proc/self/task")
    if context._context is not None or (threads.exists() and len(list(threads.iterdir())) > 1):
        raise RuntimeError("Importing TensorFlow has started threads: a fork is not sound.")

    def outcome_of(optimizer: str, seed: int) -> None:
        own = folder / optimizer
        own.mkdir()
        outcome = killed(optimizer, own, random.Random(seed))
        (folder / f"{optimizer}.json").write_text(json.dumps(outcome))

    processes = [
        fork(lambda _, optimizer=optimizer, seed=seed: outcome_of(optimizer, seed))
        for seed, optimizer in enumerate(OPTIMIZERS)
    ]
    for process in processes:
        finish(*process)
    print(json.dumps({name: json.loads((folder / f"{name}.json").read_text()) for name in KILLS}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
