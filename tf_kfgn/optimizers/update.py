"""The parts of one update, as pure functions of the optimizer's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn.blocks import collection
from tf_kfgn.blocks.factor import is_finite
from tf_kfgn.blocks.parameters import Layout
from tf_kfgn.optimizers import replicas
from tf_kfgn.optimizers.damping import (
    BAD,
    INITIAL_DAMPING,
    MIN_DAMPING,
    RETRY,
    adapted,
    reduction_ratio,
)
from tf_kfgn.optimizers.state import Memory, Settings
from tf_kfgn.optimizers.step_size import minimise, quadratic_model
from tf_kfgn.tape import CurvatureTape


class Proposal(NamedTuple):
    """A step that has not been taken yet.

    Attributes:
        step: δ, one tensor for each variable.
        coefficients: α and μ, shape `(2,)`; the learning rate is in the step only.
        change: M(δ), the change of the objective that the model predicts; NaN without a tape.
    """

    step: list[tf.Tensor]
    coefficients: tf.Tensor
    change: tf.Tensor

    @property
    def usable(self) -> tf.Tensor:
        """Whether the whole step is finite."""
        return tf.reduce_all([is_finite(piece) for piece in self.step])


def with_initial_damping(memory: Memory, tape: CurvatureTape) -> Memory:
    """Unless it is known, choose the initial damping from the first usable batch."""
    scalars = memory.scalars
    zero = tf.zeros_like(scalars.damping)

    def mean_diagonal() -> tf.Tensor:
        diagonals = [likelihood.mean_diagonal() for likelihood in tape.likelihoods]
        return tf.cast(tf.add_n(diagonals) / len(diagonals), zero.dtype)

    scale = tf.cond(scalars.initial_damping == 0, mean_diagonal, lambda: zero)
    chosen = INITIAL_DAMPING * replicas.mean(scale)
    unset = tf.math.is_finite(chosen) & (chosen > 0)
    return memory._replace(
        scalars=scalars._replace(
            initial_damping=tf.where(unset, chosen, scalars.initial_damping),
            damping=tf.where(unset, chosen, scalars.damping),
        )
    )


def with_factors(
    memory: Memory,
    settings: Settings,
    iteration: tf.Tensor,
    layout: Layout,
    estimate: Callable[[], collection.Estimates],
) -> Memory:
    """On the factor period, mix newly estimated factors into the averages."""
    states, scalars = memory.blocks, memory.scalars
    due = (iteration % settings.factor_period == 0) | (scalars.factor_updates == 0)
    new = tf.cond(due, estimate, lambda: collection.estimates(layout.blocks, states))
    new = replicas.mean(new)
    count = tf.cast(scalars.factor_updates + 1, scalars.damping.dtype)
    decay = tf.minimum(1 - 1 / count, settings.curvature_decay)
    states, accepted = tf.cond(
        due,
        lambda: collection.average(layout.blocks, states, new, decay),
        lambda: (states, tf.constant(False)),
    )
    updates = scalars.factor_updates + tf.cast(accepted, tf.int64)
    return memory._replace(blocks=states, scalars=scalars._replace(factor_updates=updates))


def with_inverses(
    memory: Memory, settings: Settings, iteration: tf.Tensor, layout: Layout
) -> Memory:
    """On the inverse period, with each early estimate and after a failure, invert every block.

    A failure raises the damping, and the next update tries again.
    """
    states, scalars = memory.blocks, memory.scalars
    early = (iteration < settings.inverse_period) & (iteration % settings.factor_period == 0)
    old = (scalars.inverse_age == 0) | (scalars.inverse_age >= settings.inverse_period)
    due = (early | old) & (scalars.factor_updates > 0)
    states, failures = tf.cond(
        due,
        lambda: collection.invert(layout.blocks, states, layout.block_ridges(scalars.damping)),
        lambda: (states, tf.zeros((), tf.int64)),
    )
    failed = failures > 0
    age = tf.where(scalars.inverse_age > 0, scalars.inverse_age + 1, 0)
    age = tf.where(due, tf.cast(~failed, tf.int64), age)
    return memory._replace(
        blocks=states,
        scalars=scalars._replace(
            damping=tf.where(failed, scalars.damping * RETRY, scalars.damping),
            inverse_age=age,
            failed_inversions=scalars.failed_inversions + failures,
        ),
    )


def propose(
    memory: Memory,
    settings: Settings,
    layout: Layout,
    gradient: list[tf.Tensor],
    learning_rate: tf.Tensor,
    tape: CurvatureTape | None,
) -> Proposal:
    """Combine the preconditioned gradient and the previous step.

    Args:
        memory: The optimizer's memory; its inverses precondition.
        settings: Its settings; a fixed α or μ is in them.
        layout: Its variables and blocks.
        gradient: g, one tensor for each variable.
        learning_rate: Factor for the whole step.
        tape: The recorded pass, or None: then α is the last one and an adaptive μ is 0.
    """
    scalars, previous = memory.scalars, memory.previous_step
    dtype = scalars.damping.dtype
    learning_rate = tf.cast(learning_rate, dtype)
    preconditioned = collection.precondition(layout.blocks, memory.blocks, gradient)
    direction = [-tensor for tensor in preconditioned]
    if tape is None:
        alpha = scalars.step_size if settings.step_size is None else settings.step_size
        coefficients = tf.convert_to_tensor([alpha, settings.momentum or 0.0], dtype)
        change = tf.constant(float("nan"), dtype)
    else:
        ridges = layout.ridges(scalars.damping)
        model = quadratic_model(tape, layout.variables, gradient, (direction, previous), ridges)
        model = model._replace(curvature=replicas.mean(model.curvature))
        coefficients = minimise(model, settings.step_size, settings.momentum)
        change = model.change(learning_rate * coefficients)
    alpha, mu = tf.unstack(learning_rate * coefficients)
    step = [
        tf.cast(alpha, d.dtype) * d + tf.cast(mu, p.dtype) * p
        for d, p in zip(direction, previous, strict=True)
    ]
    return Proposal(step, coefficients, change)


def comparison_due(memory: Memory, period: int, iteration: tf.Tensor) -> tf.Tensor:
    """Whether to compare actual and predicted change after this update.

    On the period, and in every update from the first until the model predicts well, and again
    from a bad prediction until a good one.
    """
    return ((iteration + 1) % period == 0) | (memory.scalars.reduction_ratio < BAD)


def acceptable(settings: Settings, actual: tf.Tensor) -> tf.Tensor:
    """Whether a step that was compared may stay.

    Not if the objective is not finite after it; nor if it rose, where both coefficients minimise
    the model, which then was wrong.
    """
    if settings.step_size is not None or settings.momentum is not None:
        return tf.math.is_finite(actual)
    return actual <= 0


def with_damping(
    memory: Memory, factor: float, due: tf.Tensor, actual: tf.Tensor, predicted: tf.Tensor
) -> Memory:
    """Where due, adapt the damping, by a factor below 1, to the ratio of the two changes."""
    scalars = memory.scalars
    ratio = reduction_ratio(tf.cast(actual, predicted.dtype), predicted)
    damping = adapted(scalars.damping, ratio, factor)
    return memory._replace(
        scalars=scalars._replace(
            damping=tf.where(due, damping, scalars.damping),
            reduction_ratio=tf.where(due, ratio, scalars.reduction_ratio),
        )
    )


def with_step(memory: Memory, settings: Settings, proposal: Proposal, taken: tf.Tensor) -> Memory:
    """Remember the step if it was taken, count it if it was not, and keep the damping's floor."""
    scalars = memory.scalars
    alpha, mu = tf.unstack(proposal.coefficients)
    floor = settings.min_damping
    if floor is None:
        floor = MIN_DAMPING * scalars.initial_damping
    return memory._replace(
        previous_step=choose(taken, proposal.step, memory.previous_step),
        scalars=scalars._replace(
            damping=tf.maximum(scalars.damping, floor),
            step_size=tf.where(taken, alpha, scalars.step_size),
            momentum=tf.where(taken, mu, scalars.momentum),
            rejected_steps=scalars.rejected_steps + tf.cast(~taken, tf.int64),
        ),
    )


def choose(
    condition: tf.Tensor, first: list[tf.Tensor], second: list[tf.Tensor]
) -> list[tf.Tensor]:
    """One of two lists of tensors; a condition hands them on where a selection would copy them."""
    return tf.cond(condition, lambda: first, lambda: second)
