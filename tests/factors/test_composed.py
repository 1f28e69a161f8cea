"""KFRA through layers of layers, and blocks of layers that are trained in part."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose

import tf_kfgn
from tf_kfgn.operations.loop import LoopOperation

generator = np.random.default_rng(0)
X = generator.normal(size=(1, 3, 2))
SHAPE = X.shape[1:]


def dense(*args, **kwargs):
    return keras.layers.Dense(*args, dtype="float64", **kwargs)


class Gated(keras.layers.Layer):
    """Adds, multiplies and slices between two layers, one of which it uses twice."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.inner, self.outer = dense(2, name="inner"), dense(2, name="outer")

    def call(self, x):
        hidden = keras.ops.tanh(self.inner(x)) * x[:, ::-1]
        return x + self.outer(hidden) + self.inner(hidden[:, :1])


class Nested(keras.layers.Layer):
    def __init__(self):
        super().__init__(dtype="float64")
        self.gated, self.last = Gated(), dense(2, name="last")

    def call(self, x):
        return self.last(2 * self.gated(x)) ** 2


def chain():
    return keras.Sequential([keras.Input(SHAPE), dense(2, activation="tanh")])


COMPOSED = {
    "time distributed": lambda: keras.layers.TimeDistributed(dense(3, "tanh"), dtype="float64"),
    "time distributed chain": lambda: keras.layers.TimeDistributed(
        keras.Sequential([dense(3, "tanh"), dense(2)]), dtype="float64"
    ),
    "gated": Gated,
    "nested": Nested,
}


@pytest.mark.parametrize("make", COMPOSED.values(), ids=COMPOSED.keys())
def test_kfra_of_one_example_is_kflr(make):
    layers = [dense(2, "tanh", name="first"), make(), keras.layers.Flatten(dtype="float64")]
    model = keras.Sequential([keras.Input(SHAPE), *layers, dense(2, name="end")])
    kfra, kflr = (tf_kfgn.kronecker_factors(model, X, "mse", m) for m in ("kfra", "kflr"))
    assert list(kfra) == list(kflr)
    for name in kfra:
        allclose(kfra[name].A, kflr[name].A)
        allclose(kfra[name].G, kflr[name].G)
    assert max(float(tf.reduce_max(abs(G))) for _, G in kfra.values()) > 0
    predictions = model(X)
    tf_kfgn.enable_curvature(model)
    np.testing.assert_array_equal(model(X), predictions)
    tf_kfgn.disable_curvature(model)
    assert type(model.layers[1]) in (keras.layers.TimeDistributed, Gated, Nested)


def test_layers_without_a_gap_are_passed_one_by_one():
    class Chain(keras.layers.Layer):
        def __init__(self):
            super().__init__(dtype="float64")
            self.first, self.second = dense(3, "tanh"), dense(2)

        def call(self, x):
            return self.second(self.first(x))

    model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((2,)), Chain()]))
    with tf_kfgn.CurvatureTape() as tape:
        model(X[0])
    assert not any(isinstance(operation, LoopOperation) for operation in tape.operations)


# Layers that are trained in part


def partly(frozen, bias):
    model = keras.Sequential([keras.Input((2,)), dense(3, "tanh", name="a"), dense(2, name="b")])
    for layer in model.layers:
        layer.kernel.trainable = layer.name not in frozen
        layer.bias.trainable = bias
    return model


@pytest.mark.parametrize("method", ["kfra", "kflr"])
@pytest.mark.parametrize(("frozen", "bias"), [("a", True), ("b", True), ("ab", True), ("a", False)])
def test_what_is_trained_is_returned(method, frozen, bias):
    model, x = partly(frozen, bias), X[0, :1]
    blocks = tf_kfgn.gauss_newton_blocks(model, x, "mse")
    factors = tf_kfgn.kronecker_factors(model, x, "mse", method)
    trained = {name for name in "ab" if name not in frozen or bias}
    assert set(blocks) == set(factors) == trained
    for name, (A, G) in factors.items():
        allclose(np.kron(A, G), blocks[name])
    assert sum(len(block) for block in blocks.values()) == model.count_params() - sum(
        int(np.prod(v.shape)) for v in model.non_trainable_variables
    )


def test_a_model_without_kronecker_blocks_says_so():
    normalised = keras.Sequential([keras.Input((2,)), keras.layers.LayerNormalization()])
    for model in (partly("ab", False), normalised):
        with pytest.raises(ValueError, match=r"train no weight matrix.*gauss_newton_blocks"):
            tf_kfgn.kronecker_factors(model, X[0], "mse", "kflr")


# Memory


def test_what_the_recursion_would_hold_is_counted():
    wide = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(20000, "relu", name="wide"), keras.layers.Dense(2)]
    )
    x = np.ones((1, 2), "float32")
    with pytest.raises(ValueError, match=r"layer 'wide' .*20000 features.*4578 MiB.*limit is 2048"):
        tf_kfgn.kronecker_factors(wide, x, "mse", "kfra")
