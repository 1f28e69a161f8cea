"""Blocks in shares: each replica inverts its own, and keeps the inverses or hands them to all.

A block without any matrix to invert is in no share: each replica does it by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.blocks.block import Block
from tf_kfgn.blocks.collection import (
    Pieces,
    States,
    assembled,
    estimates,
    inverses,
    invert,
    precondition,
    preconditioned_pieces,
)
from tf_kfgn.numerics.sums import ordered_sum


def shares_of(blocks: Sequence[Block], count: int) -> list[list[int]]:
    """Positions of the blocks of each replica; inversions of about the same cost.

    Args:
        blocks: The blocks.
        count: How many replicas there are.
    """
    dense = [i for i, block in enumerate(blocks) if block.inversion_cost]
    owners = replicas.longest_first([blocks[i].inversion_cost for i in dense], count)
    return [
        [i for i, owner in zip(dense, owners, strict=True) if owner == replica]
        for replica in range(count)
    ]


def in_no_share(blocks: Sequence[Block]) -> list[int]:
    """Positions of the blocks without a matrix to invert."""
    return [i for i, block in enumerate(blocks) if not block.inversion_cost]


def invert_in_shares(
    blocks: Sequence[Block],
    states: States,
    dampings: Sequence[tf.Tensor],
    sharding: str | None,
) -> tuple[States, tf.Tensor]:
    """Invert every damped block on one of the replicas, or on each.

    Inside a condition only if that is one of `tf_kfgn.replicas`.

    Args:
        blocks: As for `invert`.
        states: As for `invert`; the averages are the same on every replica.
        dampings: As for `invert`.
        sharding: `"inversions"` if every replica gets all inverses, `"inverses"` if those of others
            stay, None if each inverts all.

    Returns:
        What `invert` does.
    """
    if sharding is None or replicas.count() == 1:
        return invert(blocks, states, dampings)
    shares = shares_of(blocks, replicas.count())
    new, failures = _inverted(shares[replicas.index()], blocks, states, dampings)
    made = inverses(blocks, [new.get(i, state) for i, state in enumerate(states)])
    if sharding == "inversions":
        flat = replicas.gathered([[t for i in share for t in made[i]] for share in shares])
        for share, tensors in zip(shares, flat, strict=True):
            found = tf.nest.pack_sequence_as([made[i] for i in share], tensors)
            for i, of_block in zip(share, found, strict=True):
                made[i] = of_block
    small, failed = _inverted(in_no_share(blocks), blocks, states, dampings)
    states = assembled(blocks, estimates(blocks, states), made)
    states = [small.get(i, state) for i, state in enumerate(states)]
    return states, replicas.total(failures) + failed


def precondition_in_shares(
    blocks: Sequence[Block],
    states: States,
    tensors: Sequence[tf.Tensor],
    sharding: str | None,
    known: Mapping[int, Pieces] = {},
) -> list[tf.Tensor]:
    """The damped inverse of the whole matrix times a vector.

    Args:
        blocks: As for `precondition`.
        states: As for `precondition`.
        tensors: As for `precondition`, the same on every replica.
        sharding: With `"inverses"` each replica has its own, and looks at no others.
        known: As for `precondition`; unused where replicas look at their own.
    """
    if sharding != "inverses" or replicas.count() == 1:
        return precondition(blocks, states, tensors, known)
    own = shares_of(blocks, replicas.count())[replicas.index()]
    if replicas.index() == 0:
        own = [*own, *in_no_share(blocks)]
    pieces = preconditioned_pieces([blocks[i] for i in own], [states[i] for i in own], tensors)
    return replicas.total(
        [
            ordered_sum(found) if found else tf.zeros_like(tensor)
            for found, tensor in zip(pieces, tensors, strict=True)
        ]
    )


def _inverted(
    places: Sequence[int],
    blocks: Sequence[Block],
    states: States,
    dampings: Sequence[tf.Tensor],
) -> tuple[dict[int, Any], tf.Tensor]:
    """New states of some blocks, by position, and the number of failures."""
    renewed, failures = invert(*([each[i] for i in places] for each in (blocks, states, dampings)))
    return dict(zip(places, renewed, strict=True)), failures
