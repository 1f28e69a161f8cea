"""Blocks in shares: together they do what each replica would do alone."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn
from tf_kfgn.blocks import collection, shares
from tf_kfgn.blocks.layout import Layout


@pytest.fixture(scope="module")
def layout():
    kernels = [keras.layers.Dense(units) for units in (6, 3, 8)]
    model = keras.Sequential([keras.Input((4,)), *kernels, keras.layers.BatchNormalization()])
    return Layout.of(tf_kfgn.enable_curvature(model).trainable_variables)


@pytest.fixture(scope="module")
def states(layout):
    generator = np.random.default_rng(0)

    def value(slot):
        made = tf.constant(generator.normal(size=slot.shape))
        return made @ tf.transpose(made) if len(slot.shape) > 1 else tf.square(made)

    return [block.state([value(slot) for slot in block.slots]) for block in layout.blocks]


@pytest.fixture
def on_replica(monkeypatch):
    """Lets code believe that it is on a replica, whose sums and shares nobody adds to."""

    def be(index, count):
        fake = types.SimpleNamespace(
            count=lambda: count,
            index=lambda: index,
            total=lambda structure: structure,
            gathered=lambda parts: [list(part) for part in parts],
            longest_first=tf_kfgn.replicas.longest_first,
        )
        monkeypatch.setattr(shares, "replicas", fake)

    return be


def test_every_dense_block_is_in_one_share(layout):
    found = shares.shares_of(layout.blocks, 2)
    assert sorted(place for share in found for place in share) == [0, 1, 2]
    assert len(layout.blocks) == 5  # scale and offset are in none
    costs = [sum(layout.blocks[place].inversion_cost for place in share) for share in found]
    assert max(costs) < 0.7 * sum(costs)


@pytest.mark.parametrize("sharding", ["inverses", "inversions"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_inverses_of_a_replica_are_those_of_one_device(
    layout, states, on_replica, count, sharding
):
    dampings = [tf.constant(0.1 * (1 + i), tf.float64) for i in range(len(states))]
    expected, _ = collection.invert(layout.blocks, states, dampings)
    for index in range(count):
        on_replica(index, count)
        found, failures = shares.invert_in_shares(layout.blocks, states, dampings, sharding)
        own = [*shares.shares_of(layout.blocks, count)[index], 3, 4]
        for place, (state, good, old) in enumerate(zip(found, expected, states, strict=True)):
            for one, other in zip(state, good if place in own else old, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-12)
        assert int(failures) == 0


def test_failures_of_what_all_invert_are_counted_once(layout, states, on_replica):
    poor = [*states[:3], *(s._replace(diagonal=np.nan * s.diagonal) for s in states[3:])]
    dampings = [tf.constant(0.1, tf.float64)] * len(poor)
    for index in range(2):
        on_replica(index, 2)
        _, failures = shares.invert_in_shares(layout.blocks, poor, dampings, "inverses")
        assert int(failures) == 2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_preconditioned_parts_add_up(layout, states, on_replica, count):
    generator = np.random.default_rng(1)
    tensors = [tf.constant(generator.normal(size=v.shape)) for v in layout.variables]
    parts = []
    for index in range(count):
        on_replica(index, count)
        parts.append(shares.precondition_in_shares(layout.blocks, states, tensors, "inverses"))
    expected = collection.precondition(layout.blocks, states, tensors)
    for *found, whole in zip(*parts, expected, strict=True):
        np.testing.assert_allclose(sum(found), whole, rtol=1e-12)
