"""One update, from gradient to new memory, as functions of settings, layout and memory.

After Botev, Ritter & Barber (2017), appendix, and Martens & Grosse (2015), section 7:

1. on their periods, new Kronecker factors enter the averages and the damped factors are inverted;
2. the gradient is preconditioned block by block: Δ = -(A ⊗ G, damped)⁻¹ g;
3. (α, μ) minimise the exact Gauss-Newton model of the mini-batch over Δ and the previous step δ₀;
4. the weights move by δ = learning_rate · (α Δ + μ δ₀), unless δ is not finite;
5. on its period, and always after a bad prediction, the damping follows the ratio of actual to
   predicted change, and a step that raised the objective is taken back.

`refresh` is the first of these, `move` the others. Both take and give back values; the only
variables they touch are the weights, which `move` stores outside of any condition: a mirrored
variable must not be assigned inside one.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_kfgn.blocks.collection import Estimates
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.optimizers import replicas
from tf_kfgn.optimizers.accumulation import Accumulated
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.comparison import acceptable, comparison_due, is_measurable, measured
from tf_kfgn.optimizers.curvature import (
    factors_due,
    with_factors,
    with_inverses,
    with_mean_factors,
)
from tf_kfgn.optimizers.damping import floor, with_adapted_damping, with_initial_damping
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.proposal import Proposal, propose
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.recording.tape import CurvatureTape


def refresh(
    settings: Settings,
    layout: Layout,
    memory: Memory,
    tape: CurvatureTape,
    estimate: Callable[[], Estimates],
    iteration: tf.Tensor,
    is_last_batch: Callable[[], tf.Tensor],
) -> Memory:
    """Renew the curvature: initial damping, factors, averages, inverses.

    Args:
        settings: The optimizer's settings.
        layout: Its variables and blocks.
        memory: Its memory.
        tape: The recorded pass.
        estimate: Estimates new factors from it.
        iteration: Number of updates before this one.
        is_last_batch: Whether the weights move with this batch; called where an update takes
            several.
    """
    memory = with_initial_damping(settings, memory, tape, iteration)
    due = factors_due(settings, memory, iteration)
    if isinstance(memory.accumulated, Accumulated):
        sums = memory.accumulated.with_batch(due, estimate)
        return with_mean_factors(settings, layout, memory, sums, is_last_batch(), iteration)
    memory = with_factors(settings, layout, memory, due, estimate)
    return with_inverses(settings, layout, memory, iteration)


def move(settings: Settings, layout: Layout, memory: Memory, batch: Batch) -> Memory:
    """Move the weights: precondition, choose (α, μ), try, compare, and keep or take back.

    Args:
        settings: The optimizer's settings.
        layout: Its variables and blocks; the variables are assigned.
        memory: Its memory, after `refresh`.
        batch: What the batch brings.
    """
    proposal = propose(settings, layout, memory, batch)
    old = [tf.convert_to_tensor(variable) for variable in layout.variables]
    moved = [w + d for w, d in zip(old, proposal.step, strict=True)]
    finite = taken = proposal.is_finite
    new = select(taken, moved, old)
    if not is_measurable(settings, batch):
        replicas.store(layout.variables, new)
        return with_step(settings, memory, proposal, taken, finite)

    due = taken & comparison_due(settings, memory, batch.iteration)
    zero = tf.zeros_like(proposal.change)
    before = measured(batch, due, zero) if batch.loss is None else tf.cast(batch.loss, zero.dtype)
    replicas.store(layout.variables, new)
    after = measured(batch, due, before)
    actual = replicas.total(after - before)
    memory = with_adapted_damping(settings, memory, due, actual, proposal.change)
    taken &= acceptable(settings, batch, actual) | ~due
    finite &= tf.math.is_finite(actual) | ~due
    replicas.store(layout.variables, select(taken, new, old))
    return with_step(settings, memory, proposal, taken, finite)


def with_step(
    settings: Settings, memory: Memory, proposal: Proposal, taken: tf.Tensor, finite: tf.Tensor
) -> Memory:
    """Remember the step if it was taken, count it if it was not, and keep the damping's floor.

    Args:
        settings: The optimizer's settings.
        memory: Its memory.
        proposal: The step.
        taken: Whether the weights moved.
        finite: Whether the step and the objective after it were finite.
    """
    scalars = memory.scalars
    alpha, mu = tf.unstack(proposal.coefficients)
    previous_step = select(taken, proposal.step, memory.previous_step)
    return memory._replace(previous_step=previous_step).with_scalars(
        damping=tf.maximum(scalars.damping, floor(settings, scalars)),
        step_size=tf.where(taken, alpha, scalars.step_size),
        momentum=tf.where(taken, mu, scalars.momentum),
        rejected_steps=scalars.rejected_steps + tf.cast(~taken, tf.int64),
        nonfinite_steps=scalars.nonfinite_steps + tf.cast(~finite, tf.int64),
    )


def select(
    condition: tf.Tensor, first: list[tf.Tensor], second: list[tf.Tensor]
) -> list[tf.Tensor]:
    """One of two lists of tensors; a condition hands them on where a selection would copy them."""
    return tf.cond(condition, lambda: first, lambda: second)
