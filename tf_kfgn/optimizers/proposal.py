"""The step that one batch proposes: direction, step size and momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.blocks.factor import are_finite
from tf_kfgn.numerics.precision import unit_scale
from tf_kfgn.optimizers.averaging import averaged_gradient, share_taken_at_once
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.bounds import promised, share_of_outlier, within_bounds
from tf_kfgn.optimizers.directions import Directions, preconditioned, shortened
from tf_kfgn.optimizers.joined_weights import JoinedWeights
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.optimizers.step_size import Vector, dot, minimise, quadratic_model, slopes


class Proposal(NamedTuple):
    """A step that has not been taken yet; without a tape nothing is predicted.

    Curvatures are those of the part of the batch that the model is formed of, slopes of all of it.

    Attributes:
        step: λ δ, the part of the step that is taken at once, in joined tensors.
        coefficients: α and μ, shape `(2,)`; the learning rate is in the step only.
        change: M of it, the change of this batch's own objective that the model predicts; or NaN.
        curved: Half of its curvature with C + τ + η, the part of M that is not the slope's; or 0.
        own_curvature: Its curvature with C on this batch; or 0.
        fresh_curvature: `δ₀^T C δ₀` on this batch, of the step before; or NaN.
        fresh_slope: `g^T δ₀`, likewise.
        mean_gradient: ḡ, with this batch's gradient in it; empty where no average is kept.
        mean_directions: What the preconditioner makes of it, where that is kept.
        promise: The part of the objective that this batch's own slope promises, see `bounds`.
        reserve_slope: `g^T r`, towards what is held back; 0 where nothing is.
        held_back: `(1 - λ) / λ`, the part of δ that goes to the reserve, in units of the step.
    """

    step: list[tf.Tensor]
    coefficients: tf.Tensor
    change: tf.Tensor
    curved: tf.Tensor
    own_curvature: tf.Tensor
    fresh_curvature: tf.Tensor
    fresh_slope: tf.Tensor
    mean_gradient: list[tf.Tensor]
    mean_directions: Directions
    promise: tf.Tensor
    reserve_slope: tf.Tensor
    held_back: tf.Tensor

    @property
    def is_finite(self) -> tf.Tensor:
        """Whether the whole step is finite."""
        return are_finite(self.step)


# Of |μ|: a previous step is taken again once at most, or taken back.
MOST_MOMENTUM = 1.0


def propose(
    settings: Settings,
    weights: JoinedWeights,
    memory: Memory,
    batch: Batch,
    room: tf.Tensor | None,
) -> Proposal:
    """Combine the preconditioned gradient Δ and the previous step δ₀.

    Without a tape α is the last one, unless it is fixed, and an adaptive μ is 0.

    Args:
        settings: The optimizer's settings; a fixed α or μ is in them.
        weights: How its weights are joined.
        memory: Its memory, in joined tensors; the inverses in it precondition.
        batch: What the batch brings, likewise.
        room: The largest fall of the objective that may be predicted to first order, or None.
    """
    scalars, previous = memory.scalars, zero_unless(batch.moving, memory.previous_step)
    dtype = scalars.damping.dtype
    learning_rate = tf.cast(batch.learning_rate, dtype)
    gradient = batch.gradient
    if batch.tape is not None:
        gradient = averaged_gradient(settings, memory, gradient)
    directions, mean_directions = preconditioned(
        settings, weights.layout, memory, batch, weights.joining.split(gradient)
    )
    uphill = zero_unless(batch.moving, weights.joining.join(directions))
    tape = batch.tape_of_model
    reserve_slope = slope_of_reserve(memory, batch)
    if tape is None:
        alpha = scalars.step_size if settings.step_size is None else settings.step_size
        coefficients = tf.convert_to_tensor([alpha, settings.momentum or 0.0], dtype)
        step = combined(learning_rate * coefficients * [-1, 1], uphill, previous)
        return Proposal(
            step=step,
            coefficients=coefficients,
            change=tf.constant(math.nan, dtype),
            curved=tf.constant(0.0, dtype),
            own_curvature=tf.constant(0.0, dtype),
            fresh_curvature=tf.constant(math.nan, dtype),
            fresh_slope=scalars.fresh_slope,
            mean_gradient=memory.mean_gradient,
            mean_directions=mean_directions,
            promise=tf.constant(0.0, dtype),
            reserve_slope=reserve_slope,
            held_back=tf.constant(0.0, dtype),
        )

    # Near convergence the squares of a direction would underflow. Powers of two change no digit.
    scales = tf.stack([tf.cast(unit_scale(d), dtype) for d in (uphill, previous)])
    direction, previous = scaled(uphill, -scales[0]), scaled(previous, scales[1])
    slope = tf.stack([dot(gradient, direction), dot(batch.gradient, previous)])
    model = quadratic_model(tape, weights, slope, (direction, previous), scalars.damping)
    model = model._replace(curvature=replicas.mean(model.curvature))
    alpha, mu = (
        None if fixed is None else fixed / scale
        for fixed, scale in ((settings.step_size, scales[0]), (settings.momentum, scales[1]))
    )
    chosen = minimise(model, alpha, mu, MOST_MOMENTUM / scales[1])
    coefficients = learning_rate * chosen
    share = share_taken_at_once(settings, memory)
    own = batch.gradient if batch.own_gradient is None else batch.own_gradient
    own_model = model._replace(slope=slopes(own, (direction, previous)))
    promise = tf.zeros_like(learning_rate)
    mean_gradient = gradient if memory.mean_gradient else []
    if settings.chooses_step:  # a rate or share below 1 shortens what is within bounds
        longest = within_bounds(model, tf.maximum(learning_rate, 1) * chosen, room)
        promise = promised(-tf.tensordot(own_model.slope, longest, 1), room)
        kept = share_of_outlier(memory, promise)
        coefficients = tf.minimum(learning_rate, 1) * share * kept * longest
        if memory.mean_gradient:
            mean_gradient, mean_directions = tf.cond(
                kept < 1,
                lambda: (
                    averaged_gradient(settings, memory, batch.gradient, kept),
                    shortened(settings, memory, mean_directions, kept),
                ),
                lambda: (gradient, mean_directions),
            )
    undamped = model._replace(damping=tf.zeros_like(model.damping))
    return Proposal(
        step=combined(coefficients, direction, previous),
        coefficients=tf.math.divide_no_nan(coefficients, learning_rate) * scales,
        change=own_model.change(coefficients),
        curved=model.curved(coefficients),
        own_curvature=2 * undamped.curved(coefficients),
        fresh_curvature=model.curvature[1, 1] / scales[1] ** 2,
        fresh_slope=own_model.slope[1] / scales[1],
        mean_gradient=mean_gradient,
        mean_directions=mean_directions,
        promise=promise,
        reserve_slope=reserve_slope,
        held_back=1 / share - 1,
    )


def slope_of_reserve(memory: Memory, batch: Batch) -> tf.Tensor:
    """`g^T r`; 0 where there is none, or it is not finite."""
    zero = tf.zeros_like(memory.scalars.damping)
    if not memory.reserve:
        return zero
    slope = tf.cast(dot(batch.gradient, memory.reserve), zero.dtype)
    return tf.where(tf.math.is_finite(slope), slope, zero)


def combined(coefficients: tf.Tensor, first: Vector, second: Vector) -> list[tf.Tensor]:
    """The sum of two vectors with these coefficients."""
    a, b = tf.unstack(coefficients)
    return [
        tf.cast(a, one.dtype) * one + tf.cast(b, other.dtype) * other
        for one, other in zip(first, second, strict=True)
    ]


def scaled(vector: Vector, scale: tf.Tensor) -> list[tf.Tensor]:
    """A vector times a number."""
    return [tensor * tf.cast(scale, tensor.dtype) for tensor in vector]


def zero_unless(moving: Sequence[bool], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The tensors of weights that this update moves, and zeros for the others."""
    return [t if moves else tf.zeros_like(t) for t, moves in zip(tensors, moving, strict=True)]
