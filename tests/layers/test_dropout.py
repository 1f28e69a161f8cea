"""Dropout: one mask for a whole recorded pass, and the same masks again when it is replayed."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from brute_force import wrong
from passes import MODES, compiled, record
from problems import MSE, Problem, dense, dropout, random_problem, sequential

import tf_kfgn
from tf_kfgn import layers

DROPOUT = random_problem(
    "dropout",
    lambda: sequential((6,), dropout(0.2), dense(5, "tanh"), dropout(0.5), dense(4)),
)
REPLAYED = {
    "masks on input and features": lambda: DROPOUT.model(),
    "a rate of zero": lambda: sequential((6,), dense(5), dropout(0.0), dropout(0.5), dense(4)),
    "frozen layers first": lambda: sequential(
        (6,), dense(5, trainable=False), dropout(0.5, noise_shape=(None, 1)), dense(4)
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", REPLAYED.values(), ids=REPLAYED.keys())
def test_a_replay_repeats_outputs_and_loss(make, mode):
    model = tf_kfgn.enable_curvature(make())

    def passes():
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(DROPOUT.x, training=True)
            tape.watch_loss(MSE, DROPOUT.y, outputs)
        with tape.replaying():
            again = model(DROPOUT.x, training=True)
        return outputs, again, MSE(DROPOUT.y, outputs), tape.loss_of(again), len(tape.operations)

    outputs, again, loss, replayed_loss, _ = compiled(passes, mode)()
    np.testing.assert_allclose(again, outputs, rtol=1e-12)
    np.testing.assert_allclose(replayed_loss, loss, rtol=1e-12)
    assert wrong(model(DROPOUT.x, training=True), outputs)  # over, and with new masks


def test_a_layer_used_twice_gets_its_masks_in_order():
    shared = dropout(0.5)
    inputs = keras.Input((6,), dtype="float64")
    hidden = shared(dense(6, name="first")(inputs))
    model = keras.Model(inputs, shared(dense(6, name="second")(hidden)))
    given = Problem("twice", lambda: model, DROPOUT.x, np.zeros((7, 6)), MSE)
    model, tape, outputs = record(given, training=True)
    with tape.replaying():
        np.testing.assert_allclose(model(given.x, training=True), outputs, rtol=1e-12)
    masks = [op.derivative(tape).numpy() for op in tape.operations if op.layer is shared]
    assert wrong(*masks)


def test_a_replay_draws_and_records_nothing():
    model, tape, _ = record(DROPOUT, training=True)
    states = [layer.seed_generator.state for layer in model.layers if "dropout" in layer.name]
    before, recorded = [state.numpy() for state in states], len(tape.operations)
    with tf_kfgn.CurvatureTape() as other, tape.replaying():
        model(DROPOUT.x, training=True)
    np.testing.assert_array_equal([state.numpy() for state in states], before)
    assert (len(tape.operations), len(other.operations)) == (recorded, 0)
    model(DROPOUT.x, training=True)
    assert np.any([state.numpy() for state in states] != np.array(before))


def test_replaying_once_too_often_is_refused():
    model, tape, _ = record(DROPOUT, training=True)
    with tape.replaying():
        model(DROPOUT.x, training=True)
        with pytest.raises(RuntimeError, match=r"generator '\w+' was recorded 1 times"):
            model(DROPOUT.x, training=True)
    model(DROPOUT.x, training=True)  # the replay is over, in spite of the error


def test_dropout_records_nothing_where_it_does_nothing():
    with tf_kfgn.CurvatureTape() as tape:
        layers.Dropout(0.5)(np.ones((2, 3)), training=False)
        layers.Dropout(0.0)(np.ones((2, 3)), training=True)
        assert tape.operations == []
        layers.Dropout(0.5)(np.ones((2, 3)), training=True)
    assert len(tape.operations) == 1
