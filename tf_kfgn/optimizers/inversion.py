"""When the damped averages are inverted, all at once or in turns."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.blocks import collection
from tf_kfgn.blocks.block import Block
from tf_kfgn.blocks.collection import Estimates
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.blocks.shares import in_no_share, invert_in_shares, shares_of
from tf_kfgn.optimizers.damping import retried
from tf_kfgn.optimizers.directions import Directions, made_anew
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.periods import Periods, take_long
from tf_kfgn.optimizers.settings import Settings

# How much the damping may grow before every block is inverted anew.
STALE = 2.0


def turns_of(settings: Settings, blocks: list[Block]) -> list[list[int]]:
    """Positions of the blocks that are inverted by one update, for each of the turns.

    Turns of about the same cost, as many as fit between two estimates of factors; a single one
    where all blocks are soon inverted, or replicas invert shares of their own.

    Args:
        settings: The optimizer's settings.
        blocks: Its blocks.
    """
    periods = Periods.of(settings, blocks)
    count = min(periods.factors - 1, periods.inverses // 2)
    shared = settings.sharding is not None and replicas.count() > 1
    if not take_long(blocks) or count < 2 or shared:
        return [list(range(len(blocks)))]
    first, *others = [share for share in shares_of(blocks, count) if share]
    return [sorted([*first, *in_no_share(blocks)]), *others]


def with_inverses(
    settings: Settings, layout: Layout, memory: Memory, iteration: tf.Tensor
) -> Memory:
    """On the inverse period, with each early estimate and after a failure, invert every block.

    And when the damping has grown `STALE` times since the last inversion: the steps of less
    damped inverses have just proved too long. A failure raises the damping, and the next update
    tries again. The periodic inversion is made in turns, by one update after the other, except
    for those that estimate factors, so that none is much longer than the others.
    """
    states, scalars = memory.blocks, memory.scalars
    period = Periods.of(settings, layout.blocks).inverses
    known, none = scalars.factor_updates > 0, tf.zeros((), tf.int64)
    estimates = iteration % settings.factor_period == 0
    rests = tf.constant(True) if settings.factor_period == 1 else ~estimates
    early = (iteration < period) & estimates
    missing = scalars.inverse_age == 0
    outgrown = scalars.damping > STALE * scalars.inverted_damping
    at_once = (missing | early | outgrown) & known
    begins = (scalars.inverse_age >= period) & rests & known
    turn = tf.where(begins, none, scalars.inversion_turn)
    taken = begins | (rests & (turn > 0))

    turns = turns_of(settings, layout.blocks)
    inverses: list[Sequence[tf.Tensor]] = [*collection.inverses(layout.blocks, states)]
    directions = dict(memory.mean_directions)
    failures = none
    for index, places in enumerate(turns):
        renewed, of_them, failed = _inverted_if(
            at_once | (taken & (turn == index)), settings, layout, memory, places
        )
        for place, found in zip(places, renewed, strict=True):
            inverses[place] = found
        directions |= of_them
        failures += failed
    averages = collection.estimates(layout.blocks, states)
    anew = at_once | begins
    age = tf.where(anew, none, scalars.inverse_age) + tf.cast(anew | ~missing, tf.int64)
    following = tf.where(taken, (turn + 1) % len(turns), turn)
    return memory._replace(
        blocks=collection.assembled(layout.blocks, averages, inverses),
        mean_directions=directions,
    ).with_scalars(
        damping=tf.where(failures > 0, retried(scalars), scalars.damping),
        inverted_damping=tf.where(anew, scalars.damping, scalars.inverted_damping),
        inverse_age=tf.where(failures > 0, none, age),
        inversion_turn=tf.where(at_once, none, following),
        failed_inversions=scalars.failed_inversions + failures,
    )


def _inverted_if(
    due: tf.Tensor, settings: Settings, layout: Layout, memory: Memory, places: list[int]
) -> tuple[Estimates, Directions, tf.Tensor]:
    """Inverses of some blocks, and directions, new ones where due, and how many blocks failed."""
    blocks = [layout.blocks[place] for place in places]
    states = [memory.blocks[place] for place in places]

    def inverted() -> tuple[Estimates, Directions, tf.Tensor]:
        dampings = layout.block_dampings(memory.scalars.damping)
        of_blocks = [dampings[place] for place in places]
        renewed, failures = invert_in_shares(blocks, states, of_blocks, settings.sharding)
        directions = made_anew(layout, memory, places, renewed)
        return collection.inverses(blocks, renewed), directions, failures

    kept = collection.inverses(blocks, states)
    directions = {p: d for p, d in memory.mean_directions.items() if p in places}
    return replicas.conditional(due, inverted, lambda: (kept, directions, tf.zeros((), tf.int64)))
