"""Blocks in turns: each has one, and no turn has much more work than the others."""

from __future__ import annotations

import keras
import pytest

import tf_kfgn
from tf_kfgn.blocks.layout import find_blocks
from tf_kfgn.blocks.turns import turns_of


@pytest.fixture(scope="module")
def blocks():
    units = (6, 3, 8, 5, 7)
    layers = [layer for u in units for layer in (keras.layers.Dense(u), keras.layers.PReLU())]
    model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((4,)), *layers]))
    return find_blocks(model.trainable_variables)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 9])
def test_every_block_has_one_turn(blocks, most):
    turns = turns_of(blocks, most)
    assert sorted(place for places in turns for place in places) == list(range(len(blocks)))
    costs = [sum(blocks[place].inversion_cost for place in places) for places in turns]
    assert len(turns) == min(most, 5)  # five have a matrix
    assert min(costs) > 0
    largest = max(block.inversion_cost for block in blocks)
    assert max(costs) <= sum(costs) / len(turns) + largest  # of whatever gives to the least


def test_blocks_without_a_matrix_are_in_the_first_turn():
    model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((4,)), keras.layers.PReLU()]))
    assert turns_of(find_blocks(model.trainable_variables), 4) == [[0]]
