"""The preconditioned gradient, of wide dense layers from two thin matrices where a batch is small.

What is preconditioned is the average ḡ, which has no low rank. But the preconditioner P is the same
from one inversion to the next, and as long as it is

    ḡ <- β ḡ + (1 - β) g    makes of P ḡ    β P ḡ + (1 - β) P g,

where g is that of one batch, and P g cheap (`tf_kfgn.blocks.thin_gradients`). So P ḡ is kept beside
ḡ, for the blocks where this can pay: `memory.mean_directions`. Whoever changes one of the three
keeps them together: here with a new gradient, `inversion` with new inverses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.blocks.block import Block
from tf_kfgn.blocks.collection import States
from tf_kfgn.blocks.kronecker import KroneckerBlock, KroneckerState, precondition
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.blocks.shares import precondition_in_shares
from tf_kfgn.blocks.thin_gradients import (
    ThinGradient,
    precondition_thin,
    rank_that_pays,
    thin_gradient,
)
from tf_kfgn.optimizers.averaging import weight_of_old_gradients
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.settings import Settings

Directions = Mapping[int, tf.Tensor]


def wide_blocks(layout: Layout) -> dict[int, KroneckerBlock]:
    """The blocks whose gradient can be a product of thin matrices, where that pays, by place.

    Args:
        layout: The variables and blocks.
    """
    return {
        place: block
        for place, block in enumerate(layout.blocks)
        if isinstance(block, KroneckerBlock)
        and is_wide(block, [layout.variables[index] for index in block.indices])
    }


def is_wide(block: Block, variables: Sequence[Any]) -> bool:
    """Whether the gradient of a block can be a product of thin matrices, and that can pay.

    The kernel has to be a matrix, without a regulariser, whose gradient is added to it.

    Args:
        block: The block.
        variables: Its variables, the kernel first.
    """
    penalised = any(getattr(variable, "regularizer", None) for variable in variables)
    return len(variables[0].shape) == 2 and rank_that_pays(block) > 0 and not penalised


def sees_plain_gradients(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether gradients come to an update as they were: not clipped, or summed over others.

    Args:
        optimizer: The optimizer.
    """
    clips = optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue
    alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
    return alone and not (clips or optimizer.gradient_accumulation_steps)


def keeps_directions(optimizer: keras.optimizers.Optimizer, settings: Settings) -> bool:
    """Whether an optimizer averages gradients, and may see them as products.

    Args:
        optimizer: The optimizer.
        settings: Its settings.
    """
    return settings.gradient_decay > 0 and sees_plain_gradients(optimizer)


def with_thin_gradients(layout: Layout, batch: Batch) -> Batch:
    """A batch that knows which blocks have thin gradients.

    Args:
        layout: The optimizer's variables and blocks.
        batch: What the batch brings, one tensor for each variable.
    """
    found = {
        place: thin_gradient(block, batch.gradient) for place, block in wide_blocks(layout).items()
    }
    return batch._replace(thin={place: thin for place, thin in found.items() if thin is not None})


def preconditioned(
    settings: Settings,
    layout: Layout,
    memory: Memory,
    batch: Batch,
    gradient: Sequence[tf.Tensor],
) -> tuple[list[tf.Tensor], Directions]:
    """The damped inverse of the whole matrix times the gradient.

    Args:
        settings: The optimizer's settings.
        layout: Its variables and blocks.
        memory: Its memory.
        batch: What the batch brings.
        gradient: What is preconditioned, one tensor for each variable: the average with this
            batch in it, or the gradient of this batch, if none is kept or there is no tape.

    Returns:
        One tensor for each variable, and what `memory.mean_directions` becomes.
    """
    averages = bool(memory.mean_gradient) and batch.tape is not None
    beta = weight_of_old_gradients(settings, memory)
    kept = memory.mean_directions if averages else {}
    matrices, pieces = {}, {}
    for place in kept if averages else batch.thin:
        block, thin, last = layout.blocks[place], batch.thin.get(place), kept.get(place)
        assert isinstance(block, KroneckerBlock)
        matrix = _direction(block, memory.blocks[place], gradient, thin, last, beta)
        matrices[place], pieces[place] = matrix, block.split(matrix, gradient)
    directions = precondition_in_shares(
        layout.blocks, memory.blocks, gradient, settings.sharding, pieces
    )
    return directions, matrices if averages else memory.mean_directions


def shortened(
    settings: Settings, memory: Memory, directions: Directions, share: tf.Tensor
) -> Directions:
    """P ḡ, where only a share of the gradient of this batch has entered ḡ.

    Args:
        settings: The optimizer's settings.
        memory: Its memory, before the gradient.
        directions: What `preconditioned` made of it.
        share: What the gradient is multiplied with.
    """
    beta = weight_of_old_gradients(settings, memory)
    shorter = {}
    for place, direction in directions.items():
        last = tf.cast(beta, direction.dtype) * memory.mean_directions[place]
        shorter[place] = last + tf.cast(share, direction.dtype) * (direction - last)
    return shorter


def made_anew(layout: Layout, memory: Memory, places: Sequence[int], states: States) -> Directions:
    """P ḡ with other inverses, of those blocks among some of which it is kept.

    Args:
        layout: The optimizer's variables and blocks.
        memory: Its memory.
        places: Of the blocks.
        states: Their states, with the new inverses.
    """
    anew = {}
    for place, state in zip(places, states, strict=True):
        block = layout.blocks[place]
        if place in memory.mean_directions and isinstance(block, KroneckerBlock):
            anew[place] = precondition(state, block.join(memory.mean_gradient))
    return anew


def _direction(
    block: KroneckerBlock,
    state: KroneckerState,
    gradient: Sequence[tf.Tensor],
    thin: ThinGradient | None,
    last: tf.Tensor | None,
    beta: tf.Tensor,
) -> tf.Tensor:
    """P ḡ of one block, a joint matrix.

    Args:
        block: The block.
        state: Its state.
        gradient: ḡ, one tensor for each variable of the optimizer.
        thin: The gradient that has just entered it, if it is known as a product.
        last: P ḡ before that; None if ḡ is this gradient.
        beta: The weight of `last`.
    """

    def whole() -> tf.Tensor:
        return precondition(state, block.join(gradient))

    def of_thin(thin: ThinGradient) -> tf.Tensor:
        new = precondition_thin(state, thin)
        if last is None:
            return new
        old = tf.cast(beta, new.dtype)
        return old * last + (1 - old) * new

    if thin is None:
        return whole()
    rank, most = thin.rank, int(rank_that_pays(block))
    if isinstance(rank, int):
        return of_thin(thin) if rank <= most else whole()
    return tf.cond(rank <= most, lambda: of_thin(thin), whole)
