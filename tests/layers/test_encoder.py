"""A transformer's encoder block under every method."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, flat
from passes import MODES, SEED, compiled
from problems import MSE, dense, seeded

import tf_kfgn
from tf_kfgn.factors import KFACEstimator, KFLREstimator, KFRAEstimator

N = 3


def encoder(tokens=False):
    """What makes a transformer's encoder block, pooled, with a head."""

    def make():
        if tokens:
            inputs = keras.Input((4,), dtype="int32")
            x = keras.layers.Embedding(6, 4, mask_zero=True, dtype="float64")(inputs)
        else:
            inputs = x = keras.Input((4, 3), dtype="float64")
            x = dense(4)(x)
        double = {"dtype": "float64"}
        h = keras.layers.MultiHeadAttention(2, 2, dropout=0.2, seed=1, **double)(x, x)
        x = keras.layers.LayerNormalization(**double)(keras.layers.Add(**double)([x, h]))
        h = dense(4)(dense(5, "gelu")(x))
        x = keras.layers.LayerNormalization(**double)(keras.layers.Add(**double)([x, h]))
        pooled = keras.layers.GlobalAveragePooling1D(**double)(x)
        return keras.Model(inputs, dense(3)(pooled))

    return make


@pytest.mark.parametrize("training", [False, True])
def test_an_encoder_block_is_covered(training):
    model = tf_kfgn.enable_curvature(seeded(encoder())())
    x = np.random.default_rng(0).normal(size=(1, 4, 3))
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(MSE, None, model(x, training=training))
    for approximation in ("correlated", "expand"):
        kfra, kflr = (cls(approximation)(tape, SEED) for cls in (KFRAEstimator, KFLREstimator))
        assert len(kfra) == 8
        for matrix, (A, G) in kfra.items():
            np.testing.assert_allclose(G, kflr[matrix].G, rtol=1e-6, atol=1e-12)
            if approximation == "expand":
                np.testing.assert_array_equal(A, kflr[matrix].A)
            else:  # the correlation is found in two ways
                np.testing.assert_allclose(A, kflr[matrix].A, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_an_encoder_block_has_the_same_factors_in_every_mode(mode):
    model = tf_kfgn.enable_curvature(seeded(encoder())())

    def factors(x):
        with tf_kfgn.CurvatureTape() as tape:
            tape.watch_loss(MSE, None, model(x))
        estimators = (KFRAEstimator(), KFLREstimator(), KFACEstimator())
        return [list(estimator(tape, SEED).values()) for estimator in estimators]

    x = tf.constant(np.random.default_rng(0).normal(size=(N, 4, 3)))
    actual, expected = compiled(factors, mode)(x), factors(x)
    np.testing.assert_allclose(
        flat(tf.nest.flatten(actual)), flat(tf.nest.flatten(expected)), rtol=1e-7, atol=1e-10
    )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["KFRA", "KFLR", "KFAC"])
def test_an_encoder_of_tokens_trains(optimizer):
    generator = np.random.default_rng(0)
    x = generator.integers(1, 6, size=(40, 4))
    x[::3, 2:] = 0
    y = (x[:, 0] > 3).astype("int32")
    model = tf_kfgn.enable_curvature(encoder(tokens=True)())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(getattr(tf_kfgn, optimizer)(damping=0.1), loss)
    losses = model.fit(x, y, batch_size=20, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_padding_of_an_embedding_masks_the_recorded_attention():
    x = np.array([[1, 2, 3, 0], [4, 5, 0, 0]])
    model = seeded(encoder(tokens=True))()
    before = model(x)
    tf_kfgn.enable_curvature(model)
    with tf_kfgn.CurvatureTape() as tape:
        np.testing.assert_array_equal(model(x), before)
        tape.watch_loss(MSE, None, model(x))
    [operation, *_] = [op for op in tape.operations if len(op.inputs) == 3]
    query, key, value = operation.inputs
    np.testing.assert_allclose(operation.function(query, key, value), operation.output)
    hidden = tf.constant((x == 0)[..., None, None].astype("float64"))
    again = operation.function(query, key + 5 * hidden, value + 5 * hidden)
    seen = x != 0  # a masked query sees all positions alike
    allclose(again.numpy()[seen], operation.output.numpy()[seen])
