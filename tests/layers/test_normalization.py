"""Batch normalisation: statistics of the batch once, in every product and in a replay."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, wrong
from passes import MODES, compiled, record
from problems import MSE, Problem, dense, random_problem, sequential
from stock_rules import (
    check_bitwise,
    check_rules,
    check_saving,
    kind_of,
    normal,
    recorded,
    stock_of,
)

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.factors import KFLREstimator, KFRAEstimator
from tf_kfgn.operations.linear import LinearOperation

X = np.random.default_rng(0).normal(size=(6, 4))


def normalised(**options):
    norm = keras.layers.BatchNormalization(dtype="float64", **options)
    return sequential((4,), dense(3), norm, dense(2))


GIVEN = random_problem("normalised", normalised)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "epsilon": 0.1}])
def test_a_replay_repeats_outputs_and_leaves_the_statistics(mode, options):
    model = tf_kfgn.enable_curvature(normalised(**options))
    norm = model.layers[1]

    def passes():
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(tf.constant(X), training=True)
        with tape.replaying():
            again = model(tf.constant(X), training=True)
        return outputs, again

    before = norm.moving_mean.numpy()
    outputs, again = compiled(passes, mode)()
    np.testing.assert_allclose(again, outputs, rtol=1e-9, atol=1e-12)
    batch = model.layers[0](X).numpy().mean(axis=0)
    allclose(norm.moving_mean, 0.99 * before + 0.01 * batch)  # once, not twice
    assert wrong(model(X, training=False), outputs)


def test_fit_updates_the_statistics_once_an_update():
    stock, ours = (keras.models.clone_model(GIVEN.model()) for _ in range(2))
    ours.set_weights(stock.get_weights())
    tf_kfgn.enable_curvature(ours)
    stock.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    ours.compile(optimizer=tf_kfgn.KFLR(learning_rate=1e-30, damping_period=1), loss="mse")
    for model in (stock, ours):
        model.fit(X, X[:, :2], batch_size=6, epochs=3, shuffle=False, verbose=0)
    for one, other in zip(stock.layers[1].variables, ours.layers[1].variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_kfra_takes_the_statistics_of_the_batch_as_constants():
    model, tape, _ = record(GIVEN, training=True)
    operation = next(op for op in tape.operations if op.layer is model.layers[1])
    hidden = operation.input
    scale = model.layers[1].gamma * tf.math.rsqrt(tf.math.reduce_variance(hidden, 0) + 1e-3)
    average = np.random.default_rng(1).normal(size=(3, 3))
    average = average @ average.T
    expected = average * np.outer(scale, scale)
    allclose(operation.pull_back(tf.constant(average), tape), expected)
    model, tape, _ = record(GIVEN)  # in inference, with the moving statistics
    operation = next(op for op in tape.operations if op.layer is model.layers[1])
    assert wrong(operation.pull_back(tf.constant(average), tape), expected)


def first_factor(estimator, tape):
    return next(iter(estimator(tape, tf.constant([0, 0])).values())).G


def test_kflr_follows_the_coupling_of_the_batch_on_average():
    """With independent signs the mean of G is that of the whole Jacobian of the batch."""
    given = Problem("coupled", GIVEN.model, GIVEN.x[:3], GIVEN.y[:3], MSE)
    _, tape, outputs = record(given, training=True)
    hidden = tape.operations[0].output
    jacobian = tape.jacobian(outputs, hidden, experimental_use_pfor=False).numpy()
    columns = np.sqrt(2 / 2) * jacobian  # of the squared error of two outputs
    expected = np.einsum("nkmi,nkmj->ij", columns, columns) / 3
    found = 0
    for pattern in range(4):
        signs = np.array([1.0 if pattern >> n & 1 else -1.0 for n in range(3)])

        def signed(column, seed, signs=signs):
            return column * signs[:, None]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tf_kfgn.factors.kflr.random_signs", signed)
            found = found + first_factor(KFLREstimator(), tape) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    constant = first_factor(KFRAEstimator(), tape)
    assert wrong(constant, expected)


# The rule alone

BATCHES = {
    "features": ({}, (4,), None),
    "rows": ({"epsilon": 0.1}, (3, 4), None),
    "channels first": ({"axis": 1}, (2, 3, 2), None),
    "without scale": ({"scale": False}, (4,), None),
    "masked": ({}, (3, 4), np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 1]], bool)),
}
if "renorm" in inspect.signature(keras.layers.BatchNormalization).parameters:
    BATCHES["renorm"] = ({"renorm": True}, (4,), None)
    BATCHES["renorm of rows"] = ({"renorm": True, "renorm_clipping": {"rmax": 1.5}}, (3, 4), None)


def batch_norm(options, shape):
    layer = layers.BatchNormalization(dtype="float64", **options)
    x = 2 + 3 * normal(*shape)
    layer(x)
    generator = np.random.default_rng(2)
    layer.set_weights([generator.uniform(0.5, 2, size=w.shape) for w in layer.weights])
    return layer, x


@pytest.fixture(params=BATCHES.values(), ids=BATCHES.keys())
def made(request):
    options, shape, mask = request.param
    return *batch_norm(options, shape), mask


@pytest.mark.parametrize("trainable", [True, False])
def test_in_inference_and_when_frozen_the_rule_is_exact(made, trainable):
    layer, x, mask = made
    layer.trainable = trainable
    stock = stock_of(layer)
    options = {"mask": mask, "training": not trainable}  # frozen: as in inference

    def function(n, own):
        return stock(own[0], training=False)

    check_rules(layer, [x], function, **options)
    check_bitwise(layer, x, ["eager"], **options)


def test_in_training_the_slope_is_that_between_two_places(made):
    """Each channel is an affine map; its slope is read off its outputs."""
    layer, x, mask = made
    stock = stock_of(layer)
    output, tape = recorded(layer, x, training=True, mask=mask)
    np.testing.assert_array_equal(output, stock(x, training=True, mask=mask))
    for one, other in zip(layer.variables, stock.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    [operation] = tape.operations
    assert kind_of(operation) is LinearOperation
    channels = [np.moveaxis(np.array(t), layer.axis, 0).reshape(t.shape[layer.axis], -1)
                for t in (x, output)]  # fmt: skip
    ends = [np.argmin(channels[0], axis=1), np.argmax(channels[0], axis=1)]
    rise, run = (
        np.diff([c[np.arange(len(c)), end] for end in ends], axis=0)[0] for c in channels[::-1]
    )
    rank = x.shape.rank - 1
    shape = [-1 if axis == layer.axis % x.shape.rank - 1 else 1 for axis in range(rank)]
    slope = np.broadcast_to(np.reshape(rise / run, shape), x.shape[1:]).ravel()
    root = np.random.default_rng(1).normal(size=(slope.size, slope.size))
    average = tf.constant(root @ root.T)
    allclose(operation.pull_back(average, tape), average * np.outer(slope, slope))
    allclose(operation.mean_transpose(average, tape), slope[:, None] * average)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_replay_changes_no_variable(made, mode):
    layer, x, mask = made
    for generation in range(2):
        before = [variable.numpy() for variable in layer.variables]

        def passes():
            with tf_kfgn.CurvatureTape() as tape, tape.replaying():
                return layer(x, training=True, mask=mask)

        again = compiled(passes, mode)()
        for variable, value in zip(layer.variables, before, strict=True):
            np.testing.assert_array_equal(variable, value)
        # And it computes what the pass itself then does.
        np.testing.assert_allclose(
            again, layer(x, training=True, mask=mask), rtol=1e-9, atol=1e-12, err_msg=generation
        )


def test_layers_survive_saving_and_are_swapped(made, tmp_path):
    layer, x, mask = made
    if mask is None:
        check_saving(layer, x, tmp_path)


def test_averages_stay_in_float32_where_a_layer_computes_in_half():
    layer = layers.BatchNormalization(dtype="mixed_float16")
    x = tf.cast(normal(4), tf.float16)
    output, tape = recorded(layer, x, training=True)
    assert output.dtype == tf.float16
    pulled = tape.operations[0].pull_back(1e-9 * tf.eye(4), tape)
    assert pulled.dtype == tf.float32
    expected = 1e-9 / (np.var(x.numpy().astype("float64"), axis=0) + 1e-3)
    np.testing.assert_allclose(np.diag(pulled), expected, rtol=1e-4)
