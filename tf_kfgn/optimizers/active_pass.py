"""The recorded pass that an update belongs to, handed on past the optimizers that wrap ours.

`apply` of a Keras optimizer takes gradients alone, and `LossScaleOptimizer` and `MultiOptimizer`
call it on the optimizers inside them. What a Gauss-Newton optimizer needs besides is therefore
active in the thread while `apply` runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn.recording.active import Active
from tf_kfgn.recording.tape import CurvatureTape


class RecordedPass(NamedTuple):
    """What one call of `apply` knows beyond the gradients.

    Attributes:
        tape: The recorded pass that the gradients come from.
        objective: Returns the objective of the same batch at the current weights.
        loss: The objective before the step, if it is known.
        refreshed: Whether the curvature has been refreshed from the tape already.
        gradient: The objective's own gradient, as pairs with variables, where what is applied is
            another one: clipped, or averaged over several batches.
        curvature_tape: A recorded pass of a part of the batch, whose curvature the step takes.
    """

    tape: CurvatureTape | None = None
    objective: Callable[[], tf.Tensor] | None = None
    loss: tf.Tensor | None = None
    refreshed: bool = False
    gradient: list[tuple[Any, Any]] | None = None
    curvature_tape: CurvatureTape | None = None


PASS: Active[RecordedPass] = Active("recorded_pass", RecordedPass())


def recorded_pass(
    tape: CurvatureTape | None,
    objective: Callable[[], tf.Tensor] | None = None,
    loss: tf.Tensor | None = None,
    refreshed: bool = False,
    gradient: list[tuple[Any, Any]] | None = None,
    curvature_tape: CurvatureTape | None = None,
) -> contextlib.AbstractContextManager[None]:
    """Let Gauss-Newton optimizers, wrapped or not, use a recorded pass inside this context.

    ```python
    with tf_kfgn.optimizers.recorded_pass(tape, objective):
        optimizer.apply(gradients, model.trainable_variables)
    ```

    Args:
        tape: As for `GaussNewton.apply`.
        objective: As for `GaussNewton.apply`.
        loss: As for `GaussNewton.apply`. None where another optimizer moves some weights before.
        refreshed: Whether `GaussNewton.refresh_curvature` was called with this tape, as it must
            be before another optimizer moves weights.
        gradient: The objective's own gradient, as in `RecordedPass`.
        curvature_tape: A recorded pass of a part of the batch: the step takes the curvature from
            it, the Kronecker factors from `tape`. Defaults to that of the whole batch.
    """
    return PASS.using(RecordedPass(tape, objective, loss, refreshed, gradient, curvature_tape))
