"""The parts of one update, as pure functions of the optimizer's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn.blocks import collection
from tf_kfgn.blocks.factor import is_finite
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.optimizers import replicas
from tf_kfgn.optimizers.accumulation import Accumulated
from tf_kfgn.optimizers.damping import (
    BAD,
    INITIAL_DAMPING,
    MIN_DAMPING,
    RETRY,
    adapted,
    reduction_ratio,
)
from tf_kfgn.optimizers.memory import Memory, Scalars, Settings
from tf_kfgn.optimizers.step_size import minimise, quadratic_model, slopes
from tf_kfgn.recording.tape import CurvatureTape


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
    def is_finite(self) -> tf.Tensor:
        """Whether the whole step is finite."""
        return tf.reduce_all([is_finite(piece) for piece in self.step])


def only(moving: Sequence[bool], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The tensors of variables that this update moves, and zeros for the others."""
    return [t if moves else tf.zeros_like(t) for t, moves in zip(tensors, moving, strict=True)]


def with_initial_damping(
    memory: Memory, settings: Settings, iteration: tf.Tensor, tape: CurvatureTape
) -> Memory:
    """Take τ from a schedule; else, unless it is known, choose it from the first usable batch."""
    scalars = memory.scalars
    if settings.schedule is not None:
        scheduled = tf.cast(settings.schedule(iteration), scalars.damping.dtype)
        scheduled = tf.maximum(scheduled, damping_floor(scalars, settings))
        return memory._replace(scalars=scalars._replace(damping=scheduled))
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


def damping_floor(scalars: Scalars, settings: Settings) -> tf.Tensor:
    """The least τ that is allowed."""
    if settings.min_damping is not None:
        return tf.constant(settings.min_damping, scalars.damping.dtype)
    if settings.schedule is not None:
        return tf.zeros_like(scalars.damping)
    return MIN_DAMPING * scalars.initial_damping


def factors_due(memory: Memory, settings: Settings, iteration: tf.Tensor) -> tf.Tensor:
    """Whether this update estimates new factors."""
    return (iteration % settings.factor_period == 0) | (memory.scalars.factor_updates == 0)


def with_factors(
    memory: Memory,
    settings: Settings,
    due: tf.Tensor,
    layout: Layout,
    estimate: Callable[[], collection.Estimates],
) -> Memory:
    """Where due, mix newly estimated factors into the averages."""
    states, scalars = memory.blocks, memory.scalars
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


def with_mean_factors(
    memory: Memory,
    sums: Accumulated,
    settings: Settings,
    iteration: tf.Tensor,
    layout: Layout,
    due: tf.Tensor,
) -> Memory:
    """Where due, mix in the mean factors of several batches, and invert; else keep the sums."""

    def renewed() -> Memory:
        some = sums.batches > 0
        mixed = with_factors(memory, settings, some, layout, sums.mean)
        inverted = with_inverses(mixed, settings, iteration, layout)
        return inverted._replace(accumulated=sums.cleared())

    return tf.cond(due, renewed, lambda: memory._replace(accumulated=sums))


def propose(
    memory: Memory,
    settings: Settings,
    layout: Layout,
    gradient: list[tf.Tensor],
    learning_rate: tf.Tensor,
    tape: CurvatureTape | None,
    own_gradient: list[tf.Tensor] | None = None,
    *,
    moving: Sequence[bool],
) -> Proposal:
    """Combine the preconditioned gradient and the previous step.

    Args:
        memory: The optimizer's memory; its inverses precondition.
        settings: Its settings; a fixed α or μ is in them.
        layout: Its variables and blocks.
        gradient: g, one tensor for each variable.
        learning_rate: Factor for the whole step.
        tape: The recorded pass, or None: then α is the last one and an adaptive μ is 0.
        own_gradient: Gradient of the objective of the recorded batch, which the change is
            predicted for, if that is not g.
        moving: Whether each variable moves: not if it is frozen, or without a gradient.
    """
    scalars, previous = memory.scalars, only(moving, memory.previous_step)
    dtype = scalars.damping.dtype
    learning_rate = tf.cast(learning_rate, dtype)
    preconditioned = collection.precondition(layout.blocks, memory.blocks, gradient)
    direction = only(moving, [-tensor for tensor in preconditioned])
    if tape is None:
        alpha = scalars.step_size if settings.step_size is None else settings.step_size
        coefficients = tf.convert_to_tensor([alpha, settings.momentum or 0.0], dtype)
        change = tf.constant(float("nan"), dtype)
    else:
        ridges = layout.ridges(scalars.damping)
        model = quadratic_model(tape, layout.variables, gradient, (direction, previous), ridges)
        model = model._replace(curvature=replicas.mean(model.curvature))
        coefficients = minimise(model, settings.step_size, settings.momentum)
        if own_gradient is not None:
            model = model._replace(slope=slopes(own_gradient, (direction, previous)))
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


def acceptable(settings: Settings, actual: tf.Tensor, *, own_gradient: bool) -> tf.Tensor:
    """Whether a step that was compared may stay.

    Not if the objective is not finite after it; nor if it rose, where both coefficients minimise
    the model of this very batch, which then was wrong.

    Args:
        settings: The optimizer's settings.
        actual: Change of the objective.
        own_gradient: Whether the step follows the gradient of the batch that was compared.
    """
    if own_gradient and settings.step_size is None and settings.momentum is None:
        return actual <= 0
    return tf.math.is_finite(actual)


def with_damping(
    memory: Memory, settings: Settings, due: tf.Tensor, actual: tf.Tensor, predicted: tf.Tensor
) -> Memory:
    """Where due, measure ρ, and adapt a damping that follows no schedule."""
    scalars = memory.scalars
    ratio = reduction_ratio(tf.cast(actual, predicted.dtype), predicted)
    damping = scalars.damping
    if settings.schedule is None and settings.damping_period is not None:
        damping = adapted(damping, ratio, settings.damping_decay**settings.damping_period)
    return memory._replace(
        scalars=scalars._replace(
            damping=tf.where(due, damping, scalars.damping),
            reduction_ratio=tf.where(due, ratio, scalars.reduction_ratio),
        )
    )


def with_step(
    memory: Memory, settings: Settings, proposal: Proposal, taken: tf.Tensor, finite: tf.Tensor
) -> Memory:
    """Remember the step if it was taken, count it if it was not, and keep the damping's floor.

    Args:
        memory: The optimizer's memory.
        settings: Its settings.
        proposal: The step.
        taken: Whether the weights moved.
        finite: Whether the step and the objective after it were finite.
    """
    scalars = memory.scalars
    alpha, mu = tf.unstack(proposal.coefficients)
    return memory._replace(
        previous_step=choose(taken, proposal.step, memory.previous_step),
        scalars=scalars._replace(
            damping=tf.maximum(scalars.damping, damping_floor(scalars, settings)),
            step_size=tf.where(taken, alpha, scalars.step_size),
            momentum=tf.where(taken, mu, scalars.momentum),
            rejected_steps=scalars.rejected_steps + tf.cast(~taken, tf.int64),
            nonfinite_steps=scalars.nonfinite_steps + tf.cast(~finite, tf.int64),
        ),
    )


def choose(
    condition: tf.Tensor, first: list[tf.Tensor], second: list[tf.Tensor]
) -> list[tf.Tensor]:
    """One of two lists of tensors; a condition hands them on where a selection would copy them."""
    return tf.cond(condition, lambda: first, lambda: second)
