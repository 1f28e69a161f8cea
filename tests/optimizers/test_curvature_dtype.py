"""Factors and inverses that are kept in bfloat16: computed in float32, near those that are not."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from updates import WITH_HESSIAN_FREE

import tf_kfgn
from tf_kfgn.blocks.kronecker import KroneckerState, average, invert, precondition
from tf_kfgn.callbacks import BackupAndRestore

generator = np.random.default_rng(0)
X = generator.normal(size=(256, 12)).astype("float32")
Y = (np.sin(2 * X[:, :3]) + X[:, 3:6] * X[:, 6:9]).astype("float32")
LOW = {"curvature_dtype": "bfloat16"}
EPS = 2.0**-8  # of bfloat16


@pytest.fixture(autouse=True)
def float32():
    """Other tests of optimizers are in float64."""
    before = keras.config.floatx()
    keras.config.set_floatx("float32")
    yield
    keras.config.set_floatx(before)


def made(optimizer, **compile_arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        name="model",
        layers=[
            keras.Input((12,)),
            keras.layers.Dense(32, "tanh", name="hidden"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, name="last"),
        ],
    )
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer, "mse", **{"jit_compile": False, **compile_arguments})
    return model


def fit(model, epochs=1):
    return model.fit(X, Y, batch_size=64, epochs=epochs, shuffle=False, verbose=0)


def positive_definite(size):
    root = generator.normal(size=(size, 2 * size))
    return (root @ root.T / size).astype("float32")


@pytest.mark.parametrize("optimizer", WITH_HESSIAN_FREE)
def test_only_factors_and_their_inverses_are_of_half_precision(optimizer):
    extra = {"preconditioner": "kfac"} if optimizer is tf_kfgn.HessianFree else {}
    model = made(optimizer(**LOW, **extra))
    model.optimizer.build(model.trainable_variables)
    types = {v.name: v.dtype for v in model.optimizer.variables if len(v.shape)}
    half = {name for name, dtype in types.items() if dtype == "bfloat16"}
    assert len(half) == 8  # two blocks
    assert all(name.rpartition("_")[2] in ("A", "G", "inverse") for name in half)
    assert not any("gamma" in name or "beta" in name for name in half)
    assert all(t.dtype == "float32" for f in model.optimizer.curvature().values() for t in f)


def test_a_block_computes_in_float32_and_rounds_once():
    A, G = positive_definite(20), positive_definite(10)
    low = [tf.cast(tensor, tf.bfloat16) for tensor in (A, G, np.eye(20), np.eye(10))]
    state, good = invert(KroneckerState(*low), tf.constant(0.1))
    assert good and {tensor.dtype for tensor in state} == {tf.bfloat16}
    exact = [np.float64(tf.cast(tensor, tf.float32)) for tensor in low[:2]]
    root, pi = np.sqrt(0.1), np.sqrt(np.trace(exact[0]) / 20 / (np.trace(exact[1]) / 10))
    inverses = (
        np.linalg.inv(exact[0] + pi * root * np.eye(20)),
        np.linalg.inv(exact[1] + root / pi * np.eye(10)),
    )
    for found, inverse in zip((state.A_inverse, state.G_inverse), inverses, strict=True):
        found = np.float64(tf.cast(found, tf.float32))
        error = np.abs(found - inverse) / np.maximum(np.abs(inverse), 1e-3)
        assert np.max(error) <= EPS
        assert np.max(error) > EPS / 20  # it is rounded
    matrix = generator.normal(size=(20, 10)).astype("float32")
    product = precondition(state, tf.constant(matrix))
    kept = [np.float64(tf.cast(t, tf.float32)) for t in (state.A_inverse, state.G_inverse)]
    assert product.dtype == tf.float32
    np.testing.assert_allclose(product, kept[0] @ matrix @ kept[1], rtol=1e-4, atol=1e-5)


def test_averages_of_many_estimates_keep_near_their_mean():
    A, G = positive_definite(20), positive_definite(10)
    low = KroneckerState(*(tf.zeros((n, n), tf.bfloat16) for n in (20, 10, 20, 10)))
    for k in range(1, 200):
        noisy = [f * np.float32(1 + 0.1 * generator.normal()) for f in (A, G)]
        low = average(low, *noisy, tf.constant(min(1 - 1 / k, 0.95), tf.float32))
    for found, mean in ((low.A, A), (low.G, G)):
        error = np.linalg.norm(tf.cast(found, tf.float32) - mean) / np.linalg.norm(mean)
        assert error < 0.08


@pytest.mark.parametrize(
    "optimizer, jit_compile",
    [(tf_kfgn.KFRA, True), *((each, False) for each in (tf_kfgn.KFRA, tf_kfgn.KFLR, tf_kfgn.KFAC))],
)
def test_training_stays_near_that_with_float32(optimizer, jit_compile):
    extra = {"seed": 0} if optimizer is tf_kfgn.KFAC else {}
    epochs = 2 if jit_compile else 10
    whole, low = (
        fit(made(optimizer(**extra, **more), jit_compile=jit_compile), epochs) for more in ({}, LOW)
    )
    losses, others = np.array(whole.history["loss"]), np.array(low.history["loss"])
    assert losses[-1] < losses[0] / (1 if jit_compile else 2.5)
    np.testing.assert_allclose(others, losses, rtol=0.15)
    assert np.any(others != losses)
    assert int(low.model.optimizer.failed_inversions) == 0


@pytest.mark.parametrize("before", [{}, LOW])
@pytest.mark.parametrize("after", [{}, LOW])
def test_a_file_of_one_type_is_one_of_the_other(before, after):
    whole = made(tf_kfgn.KFAC(seed=0, **before))
    fit(whole)
    store: dict[str, np.ndarray] = {}
    whole.optimizer.save_own_variables(store)
    assert {value.dtype.name for value in store.values()} <= {"float32", "int64"}
    other = made(tf_kfgn.KFAC(seed=0, **after))
    other.set_weights(whole.get_weights())
    other.optimizer.build(other.trainable_variables)
    other.optimizer.load_own_variables(store)
    rtol = EPS if before != after else 0.0
    for name, factors in whole.optimizer.curvature().items():
        for one, factor in zip(other.optimizer.curvature()[name], factors, strict=True):
            np.testing.assert_allclose(one, factor, rtol=rtol)
    for model in (whole, other):
        fit(model)
    for one, weights in zip(other.get_weights(), whole.get_weights(), strict=True):
        same = np.array_equal(one, weights)
        assert same if before == after else np.allclose(one, weights, atol=0.1)


def test_backups_hold_it(tmp_path):
    whole = made(tf_kfgn.KFAC(seed=0, **LOW))
    fit(whole, epochs=4)
    first = made(tf_kfgn.KFAC(seed=0, **LOW))
    arguments = {"batch_size": 64, "shuffle": False, "verbose": 0}

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.fit(X, Y, epochs=4, callbacks=[BackupAndRestore(tmp_path), Stop()], **arguments)
    again = made(tf_kfgn.KFAC(seed=0, **LOW))
    history = again.fit(X, Y, epochs=4, callbacks=[BackupAndRestore(tmp_path)], **arguments)
    assert history.epoch == [2, 3]
    for one, weights in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, weights)


def test_batches_are_accumulated_in_float32():
    model = made(tf_kfgn.KFRA(gradient_accumulation_steps=2, **LOW))
    losses = fit(model, epochs=10).history["loss"]
    totals = tf.nest.flatten(model.optimizer.memory.accumulated.totals)
    assert {v.dtype for v in totals} == {"float32"}
    assert losses[-1] < losses[0] / 2


def test_the_configuration_has_it():
    config = tf_kfgn.KFLR(**LOW).get_config()
    assert config["curvature_dtype"] == "bfloat16"
    assert tf_kfgn.KFLR.from_config(config).settings.curvature_dtype == "bfloat16"
    assert tf_kfgn.KFLR().get_config()["curvature_dtype"] is None
