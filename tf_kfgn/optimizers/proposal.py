"""The step that one batch proposes: direction, step size and momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn.blocks import collection
from tf_kfgn.blocks.factor import is_finite
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.optimizers import replicas
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.optimizers.step_size import minimise, quadratic_model, slopes


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


def propose(settings: Settings, layout: Layout, memory: Memory, batch: Batch) -> Proposal:
    """Combine the preconditioned gradient Δ and the previous step δ₀.

    Without a tape α is the last one, unless it is fixed, and an adaptive μ is 0.

    Args:
        settings: The optimizer's settings; a fixed α or μ is in them.
        layout: Its variables and blocks.
        memory: Its memory; the inverses in it precondition.
        batch: What the batch brings.
    """
    scalars, previous = memory.scalars, zero_unless(batch.moving, memory.previous_step)
    dtype = scalars.damping.dtype
    learning_rate = tf.cast(batch.learning_rate, dtype)
    preconditioned = collection.precondition(layout.blocks, memory.blocks, batch.gradient)
    direction = zero_unless(batch.moving, [-tensor for tensor in preconditioned])
    if batch.tape is None:
        alpha = scalars.step_size if settings.step_size is None else settings.step_size
        coefficients = tf.convert_to_tensor([alpha, settings.momentum or 0.0], dtype)
        change = tf.constant(float("nan"), dtype)
    else:
        dampings = layout.dampings(scalars.damping)
        model = quadratic_model(
            batch.tape, layout.variables, batch.gradient, (direction, previous), dampings
        )
        model = model._replace(curvature=replicas.mean(model.curvature))
        coefficients = minimise(model, settings.step_size, settings.momentum)
        if batch.own_gradient is not None:
            model = model._replace(slope=slopes(batch.own_gradient, (direction, previous)))
        change = model.change(learning_rate * coefficients)
    alpha, mu = tf.unstack(learning_rate * coefficients)
    step = [
        tf.cast(alpha, d.dtype) * d + tf.cast(mu, p.dtype) * p
        for d, p in zip(direction, previous, strict=True)
    ]
    return Proposal(step, coefficients, change)


def zero_unless(moving: Sequence[bool], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The tensors of variables that this update moves, and zeros for the others."""
    return [t if moves else tf.zeros_like(t) for t, moves in zip(tensors, moving, strict=True)]
