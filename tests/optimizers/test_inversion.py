"""When blocks are inverted: all at once, or in turns."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from numpy_kfra import NumpyKFRA
from updates import OPTIMIZERS, batches, joint_weights, made, made_eager

import tf_kfgn
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.callbacks.snapshot import Snapshot, parts_between
from tf_kfgn.optimizers import periods
from tf_kfgn.optimizers.inversion import turns_of
from tf_kfgn.optimizers.periods import Periods

L2 = 1e-3
SETTINGS = {"factor_period": 3, "inverse_period": 5, "damping_period": 3, "curvature_decay": 0.9}


@pytest.fixture
def in_turns(monkeypatch):
    """Lets the smallest blocks be inverted in turns."""
    monkeypatch.setattr(periods, "LONG", 0)


def inverted_by(model, updates):
    """The positions of the blocks that each update inverts."""
    blocks, found = None, []
    for x, y in batches(updates):
        old = blocks
        model.train_on_batch(x, y)
        states = model.optimizer.memory.blocks
        blocks = [state.A_inverse.numpy() for state in states if hasattr(state, "A_inverse")]
        if old is None:
            old = [np.eye(len(block)) for block in blocks]
        pairs = enumerate(zip(old, blocks, strict=True))
        found.append([place for place, (one, other) in pairs if not np.array_equal(one, other)])
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.usefixtures("in_turns")
def test_each_update_inverts_one_share_and_none_that_estimates_factors(optimizer):
    model = made_eager(optimizer(damping=1.0, **SETTINGS))
    found = inverted_by(model, 17)
    all_blocks = sorted({i for blocks in found for i in blocks})
    first, last = turns_of(model.optimizer.settings, model.optimizer.layout.blocks)
    # Estimates come with updates 0, 3, 6, 9, ...; the first two are inverted at once.
    expected = {0: all_blocks, 3: all_blocks, 8: first, 10: last, 13: first, 14: last}
    assert found == [expected.get(update, []) for update in range(17)]


@pytest.mark.usefixtures("in_turns")
def test_a_monitor_sees_every_turn():
    model = made_eager(tf_kfgn.KFRA(damping=1.0, **SETTINGS))
    seen, before = [], Snapshot.of(model.optimizer)
    for update, (x, y) in enumerate(batches(17)):
        model.train_on_batch(x, y)
        after = Snapshot.of(model.optimizer)
        if parts_between(before, after, model.optimizer.settings).inverses:
            seen.append(update)
        before = after
    assert seen == [0, 3, 8, 10, 13, 14]


@pytest.mark.usefixtures("in_turns")
def test_updates_with_turns_equal_the_numpy_transcription():
    arguments = {"damping": 0.3, "min_damping": 0.2, "overshoot": 0.1, **SETTINGS}
    model = made(tf_kfgn.KFRA(**arguments, rescale=False), L2)
    start = joint_weights(model)
    model.optimizer.build(model.trainable_variables)
    turns = turns_of(model.optimizer.settings, model.optimizer.layout.blocks)
    assert len(turns) == 2
    plain, at_once = (NumpyKFRA(start, L2, **arguments, turns=given) for given in (turns, None))
    for x, y in batches(15):
        model.train_on_batch(x, y)
        plain.step(x, y)
        at_once.step(x, y)
        for actual, expected in zip(joint_weights(model), plain.W, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)
    assert not np.allclose(at_once.W[0], plain.W[0], rtol=1e-5)


@pytest.mark.usefixtures("in_turns")
def test_after_a_failure_in_its_turn_a_block_is_inverted_with_all_others(monkeypatch):
    model = made_eager(tf_kfgn.KFRA(damping=1.0, **{**SETTINGS, "damping_period": None}))
    inverted_by(model, 8)
    optimizer = model.optimizer
    invert = KroneckerBlock.invert

    def failing(self, state, damping):
        return invert(self, state, damping)[0], tf.constant(False)

    monkeypatch.setattr(KroneckerBlock, "invert", failing)
    (x, y), other = batches(2, seed=3)
    before = float(optimizer.damping)
    model.train_on_batch(x, y)
    monkeypatch.setattr(KroneckerBlock, "invert", invert)
    assert float(optimizer.damping) > before
    assert int(optimizer.memory.scalars.inverse_age) == 0
    model.train_on_batch(*other)
    assert int(optimizer.memory.scalars.inversion_turn) == 0
    assert int(optimizer.memory.scalars.inverse_age) == 1


def blocks(*costs):
    return [SimpleNamespace(inversion_cost=cost) for cost in costs]


@pytest.mark.parametrize(
    "settings, cheap, long",
    [
        ({}, (5, 5), (5, 20)),
        ({"factor_period": 2}, (2, 2), (2, 20)),
        ({"factor_period": 50}, (50, 20), (50, 20)),
        ({"inverse_period": 7}, (5, 7), (5, 7)),
    ],
)
def test_each_estimate_is_inverted_unless_that_takes_long(settings, cheap, long):
    settings = tf_kfgn.KFAC(**settings).settings
    few, many = blocks(0.3 * periods.LONG, 0), blocks(0.3 * periods.LONG, 0, 0.8 * periods.LONG)
    assert Periods.of(settings, few) == cheap
    assert Periods.of(settings, many) == long


def test_by_default_a_small_net_inverts_in_the_update_after_each_estimate():
    found = inverted_by(made_eager(tf_kfgn.KFRA(damping=1.0)), 17)
    assert [update for update, places in enumerate(found) if places] == [0, 6, 11, 16]


def test_turns_are_as_many_as_fit_and_only_of_what_takes_long():
    long = periods.LONG
    settings = tf_kfgn.KFRA().settings
    assert turns_of(settings, blocks(0.3 * long, 0, 0.6 * long)) == [[0, 1, 2]]
    assert turns_of(settings, blocks(3 * long, 0, 2 * long)) == [[0, 1], [2]]
    five = blocks(*5 * [long])
    assert turns_of(settings, five) == [[0, 4], [1], [2], [3]]
    assert turns_of(tf_kfgn.KFRA(factor_period=1).settings, five) == [[0, 1, 2, 3, 4]]
    assert turns_of(tf_kfgn.KFRA(inverse_period=4).settings, five) == [[0, 2, 4], [1, 3]]
