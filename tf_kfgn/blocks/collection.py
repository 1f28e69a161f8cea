"""All Kronecker blocks of an optimizer at once; pure functions over lists of states."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_kfgn.blocks import kronecker
from tf_kfgn.blocks.kronecker import KroneckerState
from tf_kfgn.blocks.parameters import ParameterBlock

States = list[KroneckerState]


def average(
    states: States, factors: Sequence[tuple[tf.Tensor, tf.Tensor]], decay: tf.Tensor
) -> tuple[States, tf.Tensor]:
    """Mix new factors into every block, or into none if one of them is not finite.

    Args:
        states: One state for each block.
        factors: New A and G of each block.
        decay: Weight of the old averages.

    Returns:
        The new states, and whether the factors were finite.
    """
    mixed = [
        kronecker.average(state, A, G, decay) for state, (A, G) in zip(states, factors, strict=True)
    ]
    finite = tf.reduce_all([kronecker.is_finite(t) for state in mixed for t in (state.A, state.G)])
    chosen = [
        old._replace(A=tf.where(finite, new.A, old.A), G=tf.where(finite, new.G, old.G))
        for old, new in zip(states, mixed, strict=True)
    ]
    return chosen, finite


def invert(states: States, dampings: Sequence[tf.Tensor]) -> tuple[States, tf.Tensor]:
    """Invert every damped block; a block that fails keeps its last good inverses.

    Args:
        states: One state for each block.
        dampings: τ + η of each block.

    Returns:
        The new states, and the number of blocks that failed, an int64 scalar.
    """
    results = [
        kronecker.invert(state, damping) for state, damping in zip(states, dampings, strict=True)
    ]
    failures = tf.add_n([tf.cast(~succeeded, tf.int64) for _, succeeded in results])
    return [state for state, _ in results], failures


def precondition(
    blocks: Sequence[ParameterBlock], states: States, tensors: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """The damped inverse of the whole block-diagonal matrix times a vector.

    Args:
        blocks: Blocks that together hold every variable once.
        states: One state for each block.
        tensors: One tensor for each variable of the optimizer.
    """
    result = list(tensors)
    for block, state in zip(blocks, states, strict=True):
        product = kronecker.precondition(state, block.join(tensors))
        for index, piece in block.split(product, tensors).items():
            result[index] = piece
    return result
