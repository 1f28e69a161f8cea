"""Ten stock networks: enable, train, and disable again."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS

import tf_kfgn

METHODS = {
    "kfac": lambda: tf_kfgn.KFAC(max_factor_size=256, seed=0),
    "kfra": lambda: tf_kfgn.KFRA(max_factor_size=256),
    "kflr": lambda: tf_kfgn.KFLR(max_factor_size=256, num_columns=4),
}


def methods(network):
    """Each takes seconds to trace: KFAC, which goes KFLR's way, only where KFRA does not go."""
    if not network.recursive:
        return ["kfac"]
    return ["kfra"] if network.deep else ["kfra", "kflr"]


RUNS = [(name, method) for name, network in NETWORKS.items() for method in methods(network)]


def built(network):
    model = network.build()
    if not model.built:
        model(network.x)
    return model


def outputs(model, network):
    for layer in model._flatten_layers():
        for generator in layer._seed_generators:
            generator.state.assign([1, 0])
    return [np.array(leaf) for leaf in keras.tree.flatten(model(network.x, training=False))]


@pytest.fixture
def _no_graph_optimizer():
    """TensorFlow's takes longer for a deep network than its ten steps do without."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **before})


@pytest.mark.usefixtures("_no_graph_optimizer")
@pytest.mark.parametrize(("name", "method"), RUNS, ids=["-".join(run) for run in RUNS])
def test_ten_steps_lower_the_loss(name, method):
    network = NETWORKS[name]
    model = tf_kfgn.enable_curvature(built(network))
    model.compile(optimizer=METHODS[method](), loss=network.loss, jit_compile=False)
    size = len(keras.tree.flatten(network.x)[0])
    history = model.fit(
        network.x, network.y, batch_size=size, epochs=10, shuffle=False, verbose=0
    ).history
    assert np.all(np.isfinite(history["loss"]))
    assert min(history["loss"][-3:]) < 0.9 * history["loss"][0], history["loss"]
    assert int(model.optimizer.iterations) == 10
    assert int(model.optimizer.failed_inversions) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_enabling_and_disabling_change_nothing(name):
    network = NETWORKS[name]
    model = built(network)
    layers = [type(layer) for layer in model._flatten_layers()]
    attributes = [set(vars(variable)) for variable in model.variables]
    before = outputs(model, network)
    tf_kfgn.enable_curvature(model)
    for one, other in zip(before, outputs(model, network), strict=True):
        np.testing.assert_array_equal(one, other)
    tf_kfgn.disable_curvature(model)
    for one, other in zip(before, outputs(model, network), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [type(layer) for layer in model._flatten_layers()] == layers
    assert [set(vars(variable)) for variable in model.variables] == attributes
