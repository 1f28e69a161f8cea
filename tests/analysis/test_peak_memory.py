"""What training takes at its peak, predicted from a graph that is never run."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS

import tf_kfgn
from tf_kfgn.analysis.graph_memory import memory_of_graph

SIDE = 64
ONE = SIDE * SIDE * 4  # bytes of a matrix


def peak_in_matrices(function, *others):
    specs = [tf.TensorSpec((SIDE, SIDE), tf.float32), *others]
    return memory_of_graph(tf.function(function).get_concrete_function(*specs).graph).peak / ONE


def test_a_chain_of_products_holds_two_at_a_time():
    def chain(x):
        for _ in range(5):
            x = x @ x
        return x

    assert peak_in_matrices(chain) == 2


def test_what_is_needed_later_is_held_until_then():
    def kept(x):
        first = x @ x
        y = first
        for _ in range(3):
            y = y @ y
        return y @ first

    assert peak_in_matrices(kept) == 3


def test_elementwise_operations_take_no_memory_of_their_own():
    assert peak_in_matrices(lambda x: tf.tanh(tf.exp(x @ x) + 1.0)) == 1
    assert peak_in_matrices(lambda x: tf.reshape(tf.transpose(x @ x), (-1,))) == 2


def test_what_leads_nowhere_takes_none():
    def function(x):
        _ = (x @ x) @ (x @ x)
        return x @ x

    assert peak_in_matrices(function) == 1


def test_of_a_condition_the_branch_that_holds_counts():
    def branches(x, due):
        return tf.cond(due, lambda: (x @ x) @ (x @ x), lambda: x + 1.0)

    assert peak_in_matrices(branches, tf.TensorSpec((), tf.bool)) == 3


def test_a_loop_holds_what_it_collects():
    def collected(x):
        rows = tf.TensorArray(tf.float32, 10, element_shape=(SIDE, SIDE))
        _, rows = tf.while_loop(
            lambda i, _: i < 10,
            lambda i, rows: (i + 1, rows.write(i, x @ x)),
            (0, rows),
            maximum_iterations=10,
        )
        return rows.stack()

    assert peak_in_matrices(collected) == pytest.approx(20, abs=1.1)


def mlp():
    return keras.Sequential(
        [
            keras.Input((30,)),
            keras.layers.Dense(40, "tanh", name="hidden"),
            keras.layers.Dropout(0.1, seed=0),
            keras.layers.Dense(7),
        ]
    )


CLASSES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def predicted(optimizer, model=None, loss=CLASSES, **arguments):
    model = mlp() if model is None else model
    model.compile(optimizer, loss)
    rows = tf_kfgn.curvature_summary(model, verbose=False, peak_memory=True, **arguments)
    return rows, rows.peak_memory


@pytest.mark.parametrize(
    "optimizer",
    [
        tf_kfgn.KFRA(),
        tf_kfgn.KFLR(),
        tf_kfgn.KFAC(seed=0, curvature_dtype="bfloat16"),
        tf_kfgn.KFRA(gradient_accumulation_steps=2),
        tf_kfgn.HessianFree(max_cg_iterations=3, preconditioner="kfac"),
    ],
    ids=["KFRA", "KFLR", "bfloat16", "accumulating", "HessianFree"],
)
def test_the_state_is_that_of_the_optimizer_and_nothing_changes(optimizer):
    model = mlp()
    before = [type(layer) for layer in model.layers], [v.numpy() for v in model.variables]
    _, peak = predicted(optimizer, model, batch_size=50)
    assert not optimizer.built
    assert [type(layer) for layer in model.layers] == before[0]
    for variable, value in zip(model.variables, before[1], strict=True):
        np.testing.assert_array_equal(variable, value)
    tf_kfgn.enable_curvature(model)
    optimizer.build(model.trainable_variables)
    sizes = {
        name: sum(np.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables) / 2**20
        for name, variables in {"state": optimizer.variables, "weights": model.variables}.items()
    }
    assert peak.state == pytest.approx(sizes["state"], abs=1e-4)  # and Keras' own scalars
    assert peak.weights == pytest.approx(sizes["weights"])
    assert peak.batch == pytest.approx(50 * (30 * 4 + 4) / 2**20)
    assert peak.tensors == peak.weights + peak.state + peak.batch + peak.temporary
    # An update holds the activations and cotangents at least, and copies of the weights.
    assert peak.temporary > 50 * 2 * (40 + 7) * 4 / 2**20
    assert peak.process > peak.tensors


def test_memory_grows_with_the_batch_as_activations_do():
    peaks = [predicted(tf_kfgn.KFAC(seed=0), batch_size=n)[1] for n in (1000, 4000, 7000)]
    first, second = (b.temporary - a.temporary for a, b in itertools.pairwise(peaks))
    assert first == pytest.approx(second, rel=0.15) and first > 0
    assert len({peak.state for peak in peaks}) == 1


def test_columns_of_kflr_side_by_side_count():
    few, many = (
        predicted(tf_kfgn.KFLR(memory_limit=limit), batch_size=4000)[1].temporary
        for limit in (1, 256)
    )
    assert many > 2 * few


@pytest.mark.parametrize("name", ["transformer", "masked LSTM", "two heads"])
def test_networks_are_predicted(name):
    network = NETWORKS[name]
    model = network.build()
    model.compile(tf_kfgn.KFRA(), network.loss)
    rows = tf_kfgn.curvature_summary(
        model, x=network.x, y=network.y, batch_size=16, verbose=False, peak_memory=True
    )
    assert rows.peak_memory.temporary > 0


def test_it_is_printed_only_where_it_is_asked_for(capsys):
    model = mlp()
    model.compile(tf_kfgn.KFAC(seed=0), CLASSES)
    assert tf_kfgn.curvature_summary(model).peak_memory is None
    assert "at its peak" not in capsys.readouterr().out
    rows = tf_kfgn.curvature_summary(model, peak_memory=True)
    assert str(rows.peak_memory) in capsys.readouterr().out


def test_without_a_loss_it_says_what_to_do():
    with pytest.raises(ValueError, match=r"model\.compile\(loss="):
        tf_kfgn.curvature_summary(mlp(), peak_memory=True, verbose=False)
