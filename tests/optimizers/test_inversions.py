"""When inverses are made: all of them at first and after trouble, later in turns."""

from __future__ import annotations

import numpy as np
import pytest
from updates import batches, made

import tf_kfgn

EVERY = {0, 1, 2}


def inverses(optimizer):
    return [state.A_inverse.numpy() for state in optimizer.memory.blocks]


def updated(model, batch):
    """The positions of the blocks whose inverses an update made."""
    before = inverses(model.optimizer)
    model.train_on_batch(*batch)
    pairs = enumerate(zip(before, inverses(model.optimizer), strict=True))
    return {place for place, (old, new) in pairs if not np.array_equal(old, new)}


def built(**settings):
    """A model of three blocks; τ is constant, at its floor."""
    model = made(tf_kfgn.KFRA(damping=1.0, min_damping=1.0, **settings))
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def trained():
    """Past the first period, between two turns."""
    model = built()
    for batch in batches(23):
        model.train_on_batch(*batch)
    return model


def test_after_the_first_period_blocks_take_turns_behind_estimates():
    model = built()
    found = [updated(model, batch) for batch in batches(42)]
    turns = [set(places) for places in model.optimizer.layout.turns]
    assert len(turns) == 3  # of the four that there is room for
    expected = {
        **dict.fromkeys((0, 5, 10, 15), EVERY),
        **dict(zip((21, 26, 31), turns, strict=True)),
    }
    expected[41] = turns[0]
    assert {i: places for i, places in enumerate(found) if places} == expected


@pytest.mark.parametrize("factor_period, inverse_period, later", [(1, 1, (1, 2, 3)), (2, 3, (4,))])
def test_one_turn_where_there_is_no_room_for_two(factor_period, inverse_period, later):
    model = built(factor_period=factor_period, inverse_period=inverse_period)
    assert len(model.optimizer.layout.turns) == 1
    found = [updated(model, batch) for batch in batches(5)]
    assert found[0] == EVERY
    assert all(found[i] == EVERY for i in later)


def test_all_are_inverted_when_the_damping_has_grown_since_any_was(trained):
    [batch] = batches(1)
    scalars = trained.optimizer.memory.scalars
    assert updated(trained, batch) == set()
    scalars.damping.assign(2.1 * scalars.inverted_damping)
    assert updated(trained, batch) == EVERY
    assert int(scalars.inverse_age) == 1


def test_all_are_inverted_after_one_failed(trained):
    scalars, states = trained.optimizer.memory.scalars, trained.optimizer.memory.blocks
    good = [state.A.numpy() for state in states]
    for state in states:
        state.A.assign(np.full(state.A.shape, np.nan))
    found = [updated(trained, batch) for batch in batches(4)]  # 23 to 26
    assert found == [set()] * 4
    assert int(scalars.failed_inversions) == 1
    assert int(scalars.inverse_age) == 0
    for state, A in zip(states, good, strict=True):
        state.A.assign(A)
    [batch] = batches(1)
    assert updated(trained, batch) == EVERY
