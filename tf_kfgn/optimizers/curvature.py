"""New factors enter the moving averages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.blocks import collection
from tf_kfgn.blocks.collection import Estimates, States
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.factors import FactorEstimator
from tf_kfgn.numerics.precision import at_least_float32
from tf_kfgn.optimizers.accumulation import Accumulated
from tf_kfgn.optimizers.averaging import weight_of_old_factors
from tf_kfgn.optimizers.inversion import with_inverses
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.recording.tape import CurvatureTape


def new_estimates(
    estimator: FactorEstimator,
    layout: Layout,
    states: States,
    tape: CurvatureTape,
    seed: tf.Tensor,
) -> Estimates:
    """New estimates for every block, from one recorded pass.

    Args:
        estimator: What estimates.
        layout: The optimizer's variables and blocks.
        states: One state for each block; the averages of a layer that has been frozen since stay,
            as does the entry of a bias that has been.
        tape: The recorded pass.
        seed: Two integers, from which whatever is random is drawn.

    Raises:
        ValueError: If the tape has not recorded a layer that the optimizer trains.
    """
    found = estimator.estimate(tape, seed, layout.diagonal_variables, layout.matrices)
    diagonals = iter(found.diagonals)
    old = collection.estimates(layout.blocks, states)
    estimates, missing = [], []
    for block, average in zip(layout.blocks, old, strict=True):
        new: Any = average
        if not isinstance(block, KroneckerBlock):
            diagonal = next(diagonals)
            new = (diagonal,) if layout.trains(block) else average
        elif layout.matrix_of(block) in found.factors:
            new = block.with_bias_row(found.factors[layout.matrix_of(block)], average)
        elif layout.trains(block):
            missing.append(block.name)
        # A layer may be of a lower precision than the model.
        estimates.append(
            tuple(tf.cast(n, at_least_float32(a.dtype)) for n, a in zip(new, average, strict=True))
        )
    if missing:
        raise ValueError(
            f"The CurvatureTape has not recorded the layers {missing}, whose weights this "
            "optimizer trains. Call the whole model inside the tape."
        )
    return estimates


def factors_due(settings: Settings, memory: Memory, iteration: tf.Tensor) -> tf.Tensor:
    """Whether this update estimates new factors."""
    return (iteration % settings.factor_period == 0) | (memory.scalars.factor_updates == 0)


def with_factors(
    settings: Settings,
    layout: Layout,
    memory: Memory,
    due: tf.Tensor,
    estimate: Callable[[], Estimates],
) -> Memory:
    """Where due, mix newly estimated factors into the averages."""
    states, scalars = memory.blocks, memory.scalars

    def mixed() -> tuple[Estimates, tf.Tensor]:
        decay = weight_of_old_factors(settings, memory)
        averaged, accepted = collection.average(layout.blocks, states, estimate(), decay)
        return collection.estimates(layout.blocks, averaged), accepted

    # What a condition hands on costs operations, so nothing that stays as it is.
    averages, accepted = replicas.conditional(
        due, mixed, lambda: (collection.estimates(layout.blocks, states), tf.constant(False))
    )
    updates = scalars.factor_updates + tf.cast(accepted, tf.int64)
    states = collection.assembled(
        layout.blocks, averages, collection.inverses(layout.blocks, states)
    )
    return memory._replace(blocks=states).with_scalars(factor_updates=updates)


def with_mean_factors(
    settings: Settings,
    layout: Layout,
    memory: Memory,
    sums: Accumulated,
    due: tf.Tensor,
    iteration: tf.Tensor,
) -> Memory:
    """Where due, mix in the mean factors of several batches, and invert; else keep the sums."""

    def renewed() -> Memory:
        mixed = with_factors(settings, layout, memory, sums.batches > 0, sums.mean)
        inverted = with_inverses(settings, layout, mixed, iteration)
        return inverted._replace(accumulated=sums.cleared())

    return tf.cond(due, renewed, lambda: memory._replace(accumulated=sums))
