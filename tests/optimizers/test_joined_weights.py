"""An update with joined weights is that of one tensor for each variable, in fewer operations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn
from tf_kfgn.numerics import joining
from tf_kfgn.optimizers.joined_weights import JoinedWeights

layers = keras.layers


def trained(optimizer, updates=12):
    """Weights and state after some updates in float64; two kinds of damping, one layer frozen."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, "tanh", kernel_regularizer=keras.regularizers.L2(1e-2)),
            layers.LayerNormalization(),
            layers.Dense(5, "tanh"),
            layers.Dense(4, "tanh"),
            layers.Dense(3),
        ]
    )
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer, "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    model.layers[2].trainable = False
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(updates * 20, 6)), generator.normal(size=(updates * 20, 3))
    model.fit(x, y, batch_size=20, epochs=1, shuffle=False, verbose=0)
    state = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(variable) for variable in state], model


@pytest.fixture(autouse=True)
def _float64_layers():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("make", [lambda: tf_kfgn.KFAC(seed=0), tf_kfgn.KFRA], ids=["kfac", "kfra"])
def test_joining_changes_no_number(make, monkeypatch):
    joined, model = trained(make())
    weights = JoinedWeights.of(model.optimizer.layout, [True] * 10)
    assert len(weights.joining.groups) == 2  # by the regulariser
    monkeypatch.setattr(joining, "SMALL", -1)
    single, _ = trained(make())
    for one, other in zip(joined, single, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    assert np.abs(single[0]).max() > 0


def test_dampings_and_motion_are_those_of_every_variable_in_a_group():
    _, model = trained(tf_kfgn.KFRA(), updates=1)
    layout = model.optimizer.layout
    moving = [True, True, False, True, True, True, True, True, True, False]
    weights = JoinedWeights.of(layout, moving)
    tau = tf.constant(0.5, tf.float64)
    dampings, of_each = weights.dampings(tau), layout.dampings(tau)
    for group, damping in zip(weights.joining.groups, dampings, strict=True):
        for index in group:
            assert moving[index] == moving[group[0]]
            np.testing.assert_array_equal(damping, of_each[index])
    covered = sorted(index for group in weights.joining.groups for index in group)
    assert covered == list(range(10))
