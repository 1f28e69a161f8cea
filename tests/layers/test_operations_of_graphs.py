"""Operations of functional graphs that are no layers: recorded, saved and undone as layers are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose
from joint import check_rules
from keras import ops
from passes import MODES, SEED, compiled
from problems import MSE, dense, seeded
from stock_rules import kind_of

import tf_kfgn
from tf_kfgn.factors import KFLREstimator, KFRAEstimator
from tf_kfgn.layers.graph_operations import graph_operations
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation

N = 4
CONSTANT = np.arange(1.0, 4.0)
PROJECTION = np.random.default_rng(3).normal(size=(3, 2))


@keras.saving.register_keras_serializable("tests")
class Double(keras.Operation):
    """A user's operation."""

    def __init__(self, factor=2.0, name=None):
        super().__init__(name=name)
        self.factor = factor

    def call(self, x):
        return self.factor * x * ops.sum(x, axis=-1, keepdims=True)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


# What is done to features of shape (2, 3), and the kinds of operations it takes
OPERATIONS = {
    "sum": (lambda x: x + x, [LinearOperation]),
    "sum with a constant": (lambda x: x + CONSTANT, [LinearOperation]),
    "difference": (lambda x: 1.0 - x, [LinearOperation]),
    "broadcast sum": (lambda x: x + x[:, :1], [LinearOperation] * 2),
    "mean": (lambda x: ops.mean(x, axis=1), [LinearOperation]),
    "mean over two axes": (lambda x: ops.mean(x, axis=(1, 2), keepdims=True), [LinearOperation]),
    "item": (lambda x: x[:, 0], [LinearOperation]),
    "items turned": (lambda x: x[..., ::-1], [LinearOperation]),
    "transpose": (lambda x: ops.transpose(x, (0, 2, 1)), [LinearOperation]),
    "reshape": (lambda x: ops.reshape(x, (-1, 6)), [LinearOperation]),
    "concatenation": (lambda x: ops.concatenate([x, -x], axis=1), [LinearOperation] * 2),
    "stack": (lambda x: ops.stack([x, 2 * x], 1), [ElementwiseOperation, LinearOperation]),
    "split": (lambda x: ops.split(x, 3, axis=2)[1], [LinearOperation] * 3),
    "square": (lambda x: x * x, [ElementwiseOperation]),
    "power": (lambda x: ops.exp(x) ** 2, [ElementwiseOperation] * 2),
    "gate": (lambda x: x * ops.sigmoid(x), [ElementwiseOperation] * 2),
    "quotient": (lambda x: ops.tanh(x) / (2 + ops.square(x)), [ElementwiseOperation] * 2 + [
        LinearOperation, ElementwiseOperation]),
    "broadcast product": (lambda x: x * x[:, :1], [LinearOperation, Operation]),
    "softmax": (lambda x: ops.softmax(x, axis=1), [Operation]),
    "matrix product": (lambda x: ops.matmul(x, PROJECTION), [Operation]),
    "products of features": (lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))), [
        LinearOperation, Operation]),
    "einsum": (lambda x: ops.einsum("bij,bkj->bik", x, x), [Operation]),
    "maximum": (lambda x: ops.maximum(x, 0.1), [ElementwiseOperation]),
    "choice": (lambda x: ops.where(x > 0, x, 0.1 * x), [ElementwiseOperation, Operation]),
    "norm": (lambda x: ops.norm(x, axis=-1), [Operation]),
    "of a user": (lambda x: Double()(x), [Operation]),
}  # fmt: skip
# Operations that mix examples
MIXING = {
    "mean over the batch": lambda x: x - ops.mean(x, axis=0, keepdims=True),
    "sum along the batch": lambda x: ops.cumsum(x, axis=0),
    "softmax over the batch": lambda x: ops.softmax(x, axis=-3),
    "batch turned": lambda x: ops.flip(x, axis=None),
}


def model_of(function):
    """The function between two layers with weights."""

    def make():
        inputs = keras.Input((2, 3), dtype="float64")
        h = function(dense(3, "tanh")(inputs))
        return keras.Model(inputs, dense(2)(keras.layers.Flatten(dtype="float64")(h)))

    return seeded(make)()


X = tf.constant(np.random.default_rng(0).normal(size=(N, 2, 3)))


@pytest.fixture(params=OPERATIONS.values(), ids=OPERATIONS.keys())
def given(request):
    return request.param


def recorded(model, x=X):
    tf_kfgn.enable_curvature(model)
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(MSE, None, model(x))
    return tape


def raw(tape):
    return [op for op in tape.operations if not isinstance(op.layer, keras.layers.Layer)]


def test_operations_get_the_rule_that_fits(given):
    function, kinds = given
    assert [kind_of(op) for op in raw(recorded(model_of(function)))] == kinds


def test_the_rules_are_exact(given):
    tape = recorded(model_of(given[0]))
    for operation in raw(tape):
        check_rules(operation, tape)


def test_kfra_is_kflr_for_one_example(given):
    tape = recorded(model_of(given[0]), X[:1])
    kfra, kflr = (estimator(tape, SEED) for estimator in (KFRAEstimator(), KFLREstimator()))
    assert len(kfra) == 2
    for matrix, (_, G) in kfra.items():
        np.testing.assert_allclose(G, kflr[matrix].G, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["mean", "gate", "softmax", "split"])
def test_factors_are_the_same_in_every_mode(name, mode):
    model = tf_kfgn.enable_curvature(model_of(OPERATIONS[name][0]))

    def factors(x):
        with tf_kfgn.CurvatureTape() as tape:
            tape.watch_loss(MSE, None, model(x))
        return [G for _, G in KFRAEstimator()(tape, SEED).values()]

    for actual, expected in zip(compiled(factors, mode)(X), factors(X), strict=True):
        allclose(actual, expected)


@pytest.mark.parametrize("name", MIXING)
def test_operations_along_the_batch_are_gaps(name):
    tape = recorded(model_of(MIXING[name]))
    assert not any(op for op in raw(tape) if kind_of(op) is not LinearOperation)
    assert len(KFLREstimator()(tape, SEED)) == 2
    with pytest.raises(ValueError, match="KFRA cannot carry the curvature"):
        KFRAEstimator()(tape, SEED)


def test_enabling_and_saving_keep_the_predictions(given, tmp_path):
    model = model_of(given[0])
    before = model.predict(X, verbose=0)
    classes = [type(op) for op in graph_operations([model])]
    stock = saved_text(model, tmp_path / "stock.keras")
    tf_kfgn.enable_curvature(model)
    names = [type(op) for op in graph_operations([model])]
    assert all(
        issubclass(new, old) and new is not old for new, old in zip(names, classes, strict=1)
    )
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)
    text = saved_text(model, tmp_path / "model.keras")
    assert operations_in(text) == operations_in(stock)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), before)
    tf_kfgn.disable_curvature(model)
    assert [type(op) for op in graph_operations([model])] == classes
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)


def saved_text(model, path):
    model.save(path)
    return model.get_config()


def operations_in(config):
    """How a file names what is no layer."""
    return [
        (entry["module"], entry["class_name"], entry["registered_name"], entry["config"])
        for entry in config["layers"]
        if entry["module"] not in {"keras.layers"}
        and "tf_kfgn" not in str(entry["registered_name"])
    ]


def test_the_recording_context_leaves_no_trace():
    model = model_of(OPERATIONS["gate"][0])
    classes = [type(op) for op in graph_operations([model])]
    tf_kfgn.kronecker_factors(model, X, "mse", "kfra")
    assert [type(op) for op in graph_operations([model])] == classes
    tf_kfgn.enable_curvature(model)
    tf_kfgn.kronecker_factors(model, X, "mse", "kfra")
    assert not any(type(op) in classes for op in graph_operations([model]))


def test_operations_of_nested_models_are_recorded():
    def inner(x):
        inputs = keras.Input((2, 3), dtype="float64")
        return keras.Model(inputs, ops.tanh(inputs) + inputs)(x)

    assert len(raw(recorded(model_of(inner)))) == 2


def test_a_model_with_operations_trains_and_continues_from_a_file(tmp_path):
    def make():
        inputs = keras.Input((3,), dtype="float64")
        h = dense(3)(inputs)
        return keras.Model(inputs, dense(2)(h * ops.sigmoid(h) + inputs))

    x = X[:, 0]
    model = tf_kfgn.enable_curvature(seeded(make)())
    model.compile(tf_kfgn.KFRA(), "mse")  # a file does not keep the type of a loss object
    y = np.zeros((N, 2))
    losses = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = [
        m.fit(x, y, epochs=2, verbose=0, shuffle=False).history["loss"] for m in (model, loaded)
    ]
    assert again[0] == again[1]
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
