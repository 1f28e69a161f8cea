"""Killed processes, files cut short and bad batches leave training as it was, and it goes on."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn

SETTINGS = {"factor_period": 2, "inverse_period": 3, "damping_period": 2}
OPTIMIZERS = {
    "kfra": lambda: tf_kfgn.KFRA(**SETTINGS),
    "kflr": lambda: tf_kfgn.KFLR(**SETTINGS),
    "kfac": lambda: tf_kfgn.KFAC(**SETTINGS, seed=1),
}
COMPILED = [*((name, False) for name in OPTIMIZERS), ("kfra", True), ("hessianfree", False)]

generator = np.random.default_rng(0)
X = generator.normal(size=(64, 5)).astype("float32")
Y = np.tanh(X[:, :2]) + np.float32(0.1)


class Training:
    """A compiled model that can be set back to its first state; its steps are traced once."""

    def __init__(self, optimizer: keras.optimizers.Optimizer, jit_compile: bool = False) -> None:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(6, "relu"), keras.layers.Dense(4, "tanh")]
        self.model = tf_kfgn.enable_curvature(
            keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(2)])
        )
        self.model.compile(optimizer=optimizer, loss="mse", jit_compile=jit_compile)
        self.optimizer = optimizer
        optimizer.build(self.model.trainable_variables)
        self._initial = self.state()

    @property
    def variables(self) -> list:
        return [*self.model.variables, *self.optimizer.variables]

    def state(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.variables]

    def start_over(self) -> None:
        for variable, value in zip(self.variables, self._initial, strict=True):
            variable.assign(value)

    def update(self, count: int = 1) -> None:
        for _ in range(count):
            self.model.train_on_batch(X, Y)

    def loss(self) -> float:
        return float(np.mean((self.model(X) - Y) ** 2))

    def curvature(self) -> list[np.ndarray]:
        return [a.numpy() for averages in self.optimizer.curvature().values() for a in averages]

    def is_finite(self) -> bool:
        """Whether everything is finite; ρ is -∞ where the change of the objective is not."""
        return all(
            np.all(np.isfinite(variable.numpy()))
            or (variable is self.optimizer.reduction_ratio and variable.numpy() == -np.inf)
            for variable in self.variables
        )


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Leave the seeds to `Training`: to set them makes TensorFlow optimise every graph anew."""


def named(compiled: tuple[str, bool]) -> str:
    return compiled[0] + "-jit" * compiled[1]


@pytest.fixture(scope="module", params=COMPILED, ids=named)
def training(request) -> Training:
    name, jit_compile = request.param
    if name == "hessianfree":
        return Training(tf_kfgn.HessianFree(max_cg_iterations=10), jit_compile)
    return Training(OPTIMIZERS[name](), jit_compile)


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


# Killed processes


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_twenty_times_training_ends_where_it_would_have(tmp_path):
    script = pathlib.Path(__file__).with_name("killing.py")
    # NumPy would start threads when it is imported, and a fork would be without them.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    outcomes = json.loads(result.stdout.splitlines()[-1])
    assert list(outcomes) == [*OPTIMIZERS, "hessianfree"]
    assert sum(len(outcome["kills"]) for outcome in outcomes.values()) == 20
    for name, outcome in outcomes.items():
        assert all(outcome["same"]), name
        assert max(outcome["epochs"]) > 0, name  # something was continued from


# Files cut short

KEPT = [0.0, 0.01, 0.3, 0.6, 0.9, 0.999]


def cut(path: pathlib.Path, kept: float) -> None:
    size = path.stat().st_size
    os.truncate(path, min(int(kept * size), size - 1))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Training, pathlib.Path]:
    """Training that is further than the files which were saved on its way."""
    folder = tmp_path_factory.mktemp("files")
    training = Training(OPTIMIZERS["kfac"]())
    training.update(2)
    training.model.save(folder / "model.keras")
    training.model.save_weights(folder / "model.weights.h5")
    checkpoint(training).save(folder / "point")
    training.update()
    return training, folder


def checkpoint(training: Training) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(model=training.model, optimizer=training.optimizer)


def restore(training: Training, path: pathlib.Path) -> None:
    checkpoint(training).restore(path.with_suffix("")).assert_existing_objects_matched()


LOADERS: dict[str, tuple[str, Callable]] = {
    "load_model": ("model.keras", lambda _, path: keras.models.load_model(path)),
    "load_weights of a model": ("model.keras", lambda t, path: t.model.load_weights(path)),
    "load_weights": ("model.weights.h5", lambda t, path: t.model.load_weights(path)),
    "index of a checkpoint": ("point-1.index", restore),
    "data of a checkpoint": ("point-1.data-00000-of-00001", restore),
}


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize(("name", "load"), LOADERS.values(), ids=LOADERS.keys())
def test_a_file_cut_short_is_refused_and_changes_nothing(files, tmp_path, name, load, kept):
    training, folder = files
    before = training.state()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    cut(copy / name, kept)
    with pytest.raises(Exception):  # noqa: B017  (Keras and TensorFlow raise what they like)
        load(training, copy / name)
    assert same(training.state(), before)


@pytest.mark.parametrize(("name", "load"), LOADERS.values(), ids=LOADERS.keys())
def test_a_whole_file_is_not_refused(files, name, load):
    training, folder = files
    before = training.state()
    load(training, folder / name)
    assert same(training.state(), before) == (load is LOADERS["load_model"][1])
    for variable, value in zip(training.variables, before, strict=True):
        variable.assign(value)


# Bad batches


def with_value(value: float, rows: int | slice = 3) -> tuple[np.ndarray, np.ndarray]:
    x = X.copy()
    x[rows, 1] = value
    return x, Y


def with_target(value: float) -> tuple[np.ndarray, np.ndarray]:
    y = Y.copy()
    y[3, 1] = value
    return X, y


EMPTY = (X[:0], Y[:0])

# Nothing can be learnt from these.
USELESS = {
    "NaN": with_value(np.nan),
    "Inf": with_value(np.inf),
    "target NaN": with_target(np.nan),
    "target -Inf": with_target(-np.inf),
    "huge targets": with_target(1e20),
    "overflowing features": (np.sign(X) * np.float32(3e38), Y),
    "empty": EMPTY,
}
# From these something can, although there may be no need to.
POOR = {
    "constant feature": with_value(1.0, slice(None)),
    "absent feature": with_value(0.0, slice(None)),
    "all zero": (np.zeros_like(X), Y),
    "equal rows": (np.repeat(X[:1], len(X), 0), np.repeat(Y[:1], len(X), 0)),
    "one row": (X[:1], Y[:1]),
    "large features": (X * np.float32(1e20), Y),
    "one large feature": with_value(1e20),
    "tiny features": (X * np.float32(1e-30), Y),
}


@pytest.mark.parametrize("good", [2, 3], ids=["factors due", "not due"])
@pytest.mark.parametrize("batch", USELESS.values(), ids=USELESS.keys())
def test_a_useless_batch_is_counted_and_changes_nothing(training, batch, good):
    training.start_over()
    training.update(good)
    weights, curvature = training.model.get_weights(), training.curvature()
    noise_ratio = float(training.optimizer.noise_ratio)
    training.model.train_on_batch(*batch)
    assert int(training.optimizer.nonfinite_steps) == 1
    assert int(training.optimizer.rejected_steps) == 1
    assert same(training.model.get_weights(), weights)
    assert float(training.optimizer.noise_ratio) == noise_ratio
    if batch[0] is not X:  # else only the targets are useless, and the curvature is not
        assert same(training.curvature(), curvature)
    assert training.is_finite()
    continues(training)


def test_adam_is_ruined_by_one():
    training = Training(keras.optimizers.Adam())
    training.model.train_on_batch(*USELESS["NaN"])
    assert any(np.any(np.isnan(weight)) for weight in training.model.get_weights())


@pytest.mark.parametrize("good", [2, 3], ids=["factors due", "not due"])
@pytest.mark.parametrize("batch", POOR.values(), ids=POOR.keys())
def test_after_a_poor_batch_training_continues(training, batch, good):
    training.start_over()
    training.update(good)
    training.model.train_on_batch(*batch)
    assert int(training.optimizer.nonfinite_steps) == 0
    assert training.is_finite()
    continues(training)


def continues(training: Training) -> None:
    """Check that good batches lower the loss."""
    before = training.loss()
    training.update(12)
    assert training.is_finite()
    assert training.loss() < 0.5 * before


@pytest.mark.parametrize("training", COMPILED[:3], indirect=True, ids=named)
def test_batches_in_between_are_empty_or_of_one_row(training):
    sizes = [64, 64, 0, 1, 64, 0, 0, 64, 64]
    signature = tuple(tf.TensorSpec((None, a.shape[1]), "float32") for a in (X, Y))
    data = tf.data.Dataset.from_generator(
        lambda: ((X[:size], Y[:size]) for size in sizes), output_signature=signature
    )
    data = data.apply(tf.data.experimental.assert_cardinality(len(sizes)))
    training.start_over()
    training.model.fit(data, epochs=2, shuffle=False, verbose=0)
    assert int(training.optimizer.nonfinite_steps) == 2 * sizes.count(0)
    assert training.is_finite()
    continues(training)


def test_the_first_batch_is_useless(training):
    for batch in USELESS.values():
        training.start_over()
        training.model.train_on_batch(*batch)
        assert int(training.optimizer.rejected_steps) == 1
        assert training.is_finite()
        training.update(2)
        continues(training)


def test_dead_units_train_what_is_left(training):
    training.start_over()
    training.update(2)
    training.model.layers[0].bias.assign(np.full(6, -100.0))
    before = training.loss()
    training.update(12)
    assert training.is_finite()
    assert training.loss() < before
