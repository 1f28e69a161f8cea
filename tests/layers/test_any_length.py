"""Sequences whose length a graph does not know, as those of a ragged batch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose

import tf_kfgn
from tf_kfgn.factors import KFACEstimator, KFLREstimator, KFRAEstimator

SEED = tf.constant([1, 0], tf.int64)
Y = np.random.default_rng(0).normal(size=(3, 2))


def made():
    layers = [
        keras.layers.Embedding(6, 4, dtype="float64"),
        keras.layers.Dense(3, "tanh", dtype="float64"),
        keras.layers.GlobalAveragePooling1D(dtype="float64"),
        keras.layers.Dense(2, dtype="float64"),
    ]
    model = keras.Sequential([keras.Input((None,), dtype="int32"), *layers])
    return tf_kfgn.enable_curvature(model)


def factors_in(model, estimator, x):
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss("mse", Y, model(x))
    return [factor for pair in estimator(tape, SEED).values() for factor in pair]


@pytest.mark.parametrize("estimator", [KFACEstimator(), KFLREstimator()])
def test_an_unknown_length_changes_nothing(estimator):
    model, x = made(), tf.constant([[1, 2, 3], [4, 5, 0], [1, 0, 0]])
    unknown = tf.function(
        lambda x: factors_in(model, estimator, x),
        input_signature=[tf.TensorSpec((None, None), tf.int32)],
    )
    for one, other in zip(unknown(x), factors_in(model, estimator, x), strict=True):
        allclose(one, other)


def test_kfra_asks_for_the_length():
    model = made()
    unknown = tf.function(
        lambda x: factors_in(model, KFRAEstimator(), x),
        input_signature=[tf.TensorSpec((None, None), tf.int32)],
    )
    with pytest.raises(ValueError, match=r"Fix the shape in keras\.Input"):
        unknown(tf.zeros((3, 2), tf.int32))


def test_ragged_batches_are_trained_on():
    vectors = keras.layers.TextVectorization(max_tokens=9, ragged=True)
    vectors.adapt(["a b c", "c d"])
    texts = tf.constant(["a b", "c d e a", "b"])
    data = tf.data.Dataset.from_tensor_slices((vectors(texts), Y)).batch(3)

    class Padded(keras.layers.Layer):
        def call(self, tokens):
            return tokens.to_tensor() if isinstance(tokens, tf.RaggedTensor) else tokens

    layers = [keras.layers.Embedding(9, 3), keras.layers.GlobalAveragePooling1D()]
    inputs = keras.Input((None,), dtype="int64")
    model = keras.Sequential([inputs, Padded(), *layers, keras.layers.Dense(2)])
    tf_kfgn.enable_curvature(model)
    model.compile(tf_kfgn.KFAC(seed=0), "mse")
    losses = model.fit(data, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_summary_of_a_model_of_strings():
    vectors = keras.layers.TextVectorization(max_tokens=9, output_sequence_length=4)
    vectors.adapt(["a b c", "c d"])
    embedding = keras.layers.Embedding(9, 3, name="embedding")
    layers = [vectors, embedding, keras.layers.Flatten(), keras.layers.Dense(2, name="dense")]
    model = keras.Sequential([keras.Input((), dtype="string"), *layers])
    rows = tf_kfgn.curvature_summary(model, verbose=False)
    assert set(rows) == {"embedding", "dense"}
    assert rows["embedding"]["work"] is not None
