"""All blocks of an optimizer at once; pure functions over lists of states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_kfgn.blocks.block import Block
from tf_kfgn.blocks.factor import are_finite
from tf_kfgn.numerics.choice import select
from tf_kfgn.numerics.sums import ordered_sum

States = list[Any]
Estimates = Sequence[Sequence[tf.Tensor]]
Pieces = Mapping[int, tf.Tensor]


def estimates(blocks: Sequence[Block], states: States) -> list[tuple[tf.Tensor, ...]]:
    """The averages of every block, in the form in which new estimates come."""
    return [block.estimate(state) for block, state in zip(blocks, states, strict=True)]


def inverses(blocks: Sequence[Block], states: States) -> list[tuple[tf.Tensor, ...]]:
    """What each state has besides the averages."""
    return [
        tuple(state)[len(averages) :]
        for state, averages in zip(states, estimates(blocks, states), strict=True)
    ]


def assembled(
    blocks: Sequence[Block], averages: Estimates, others: Sequence[Sequence[tf.Tensor]]
) -> States:
    """One state for each block.

    Args:
        blocks: The blocks.
        averages: What `estimates` gives of a state.
        others: What `inverses` gives of it.
    """
    return [
        block.state([*averages_of, *inverses_of])
        for block, averages_of, inverses_of in zip(blocks, averages, others, strict=True)
    ]


def average(
    blocks: Sequence[Block], states: States, new: Estimates, decay: tf.Tensor
) -> tuple[States, tf.Tensor]:
    """Mix new estimates into every block, or into none if one of them is not finite.

    Args:
        blocks: The blocks.
        states: One state for each block.
        new: One estimate for each block.
        decay: Weight of the old averages.

    Returns:
        The new states, and whether the estimates were finite.
    """
    mixed = [
        block.average(state, estimate, decay)
        for block, state, estimate in zip(blocks, states, new, strict=True)
    ]
    averages = [tensor for estimate in estimates(blocks, mixed) for tensor in estimate]
    finite = are_finite(averages)
    old = [tensor for estimate in estimates(blocks, states) for tensor in estimate]
    chosen = tf.nest.pack_sequence_as(estimates(blocks, mixed), select(finite, averages, old))
    return assembled(blocks, chosen, inverses(blocks, states)), finite


def invert(
    blocks: Sequence[Block], states: States, dampings: Sequence[tf.Tensor]
) -> tuple[States, tf.Tensor]:
    """Invert every damped block; a block that fails keeps its last good inverses.

    Args:
        blocks: The blocks.
        states: One state for each block.
        dampings: τ + η of each block.

    Returns:
        The new states, and the number of blocks that failed, an int64 scalar.
    """
    inverted, failures = [], []
    for block, state, damping in zip(blocks, states, dampings, strict=True):
        new, succeeded = block.invert(state, damping)
        inverted.append(new)
        failures.append(tf.cast(~succeeded, tf.int64))
    return inverted, tf.add_n([tf.zeros((), tf.int64), *failures])


def precondition(
    blocks: Sequence[Block],
    states: States,
    tensors: Sequence[tf.Tensor],
    known: Mapping[int, Pieces] = {},
) -> list[tf.Tensor]:
    """The damped inverse of the whole block-diagonal matrix times a vector.

    Args:
        blocks: Blocks that together hold every weight once.
        states: One state for each block.
        tensors: One tensor for each variable of the optimizer.
        known: What some blocks make of them, by their places.
    """
    pieces = preconditioned_pieces(blocks, states, tensors, known)
    return [ordered_sum(found or [tensor]) for found, tensor in zip(pieces, tensors, strict=True)]


def preconditioned_pieces(
    blocks: Sequence[Block],
    states: States,
    tensors: Sequence[tf.Tensor],
    known: Mapping[int, Pieces] = {},
) -> list[list[tf.Tensor]]:
    """For each tensor what each block that it takes part in makes of it.

    Args:
        blocks: Any blocks.
        states: One state for each block.
        tensors: One tensor for each variable of the optimizer.
        known: As for `precondition`.
    """
    pieces: list[list[tf.Tensor]] = [[] for _ in tensors]
    for place, (block, state) in enumerate(zip(blocks, states, strict=True)):
        made = known[place] if place in known else block.precondition(state, tensors)
        for index, piece in made.items():
            pieces[index].append(piece)
    return pieces
