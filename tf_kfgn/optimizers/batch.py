"""What one batch brings to the move of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.blocks.thin_gradients import ThinGradient
from tf_kfgn.recording.tape import CurvatureTape


class Batch(NamedTuple):
    """What one batch brings to the move of the weights.

    Attributes:
        gradient: g, one tensor for each variable: of the objective, or what clipping and
            accumulation made of it; zeros where the objective gave none.
        learning_rate: Factor for the whole step.
        iteration: Number of updates before this one.
        moving: Whether each variable moves: not if it is frozen, or without a gradient.
        tape: The recorded pass, or None.
        objective: Returns the objective at the current weights, or None if it is not known how.
        loss: The objective before the step, if it is known.
        own_gradient: The gradient of this batch's objective, if that is not g.
        alone: Whether g and the curvature are those of this batch at the weights of its recorded
            pass: not if several batches were accumulated, or another optimizer moves some weights.
        curvature_tape: A recorded pass of the part of the batch whose curvature the step takes, or
            None for that of the whole batch.
        thin: The gradients of some blocks, by their places, as products of thin matrices.
    """

    gradient: list[tf.Tensor]
    learning_rate: tf.Tensor
    iteration: tf.Tensor
    moving: Sequence[bool]
    tape: CurvatureTape | None = None
    objective: Callable[[], tf.Tensor] | None = None
    loss: tf.Tensor | None = None
    own_gradient: list[tf.Tensor] | None = None
    alone: bool = True
    curvature_tape: CurvatureTape | None = None
    thin: Mapping[int, ThinGradient] = {}

    @property
    def tape_of_model(self) -> CurvatureTape | None:
        """The recorded pass whose curvature the step takes."""
        return self.tape if self.curvature_tape is None else self.curvature_tape

    @property
    def has_examples(self) -> tf.Tensor:
        """Whether there is an example in it, on every replica."""
        likelihoods = [] if self.tape is None else self.tape.likelihoods
        here = tf.reduce_all([likelihood.batch_size > 0 for likelihood in likelihoods])
        if replicas.count() == 1:
            return here
        return replicas.total(tf.cast(~here, tf.int32)) == 0
