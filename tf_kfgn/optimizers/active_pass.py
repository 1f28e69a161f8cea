"""The recorded pass that an update belongs to, handed on past the optimizers that wrap ours.

`apply` of a Keras optimizer takes gradients alone, and `LossScaleOptimizer` and `MultiOptimizer`
call it on the optimizers inside them. What a Gauss-Newton optimizer needs besides is therefore
active in the thread while `apply` runs. Under a strategy `LossScaleOptimizer` goes on in other
threads, one for each replica, so a replica finds its pass by its number as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn import replicas
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
        replica_context: That of the recorded pass, if it is one of a strategy.
    """

    tape: CurvatureTape | None = None
    objective: Callable[[], tf.Tensor] | None = None
    loss: tf.Tensor | None = None
    refreshed: bool = False
    gradient: list[tuple[Any, Any]] | None = None
    curvature_tape: CurvatureTape | None = None
    replica_context: Any = None

    def on_its_replica(self) -> contextlib.AbstractContextManager[Any]:
        """The context of the replica as it was recorded, whose reductions the tape repeats."""
        return self.replica_context or contextlib.nullcontext()


PASS: Active[RecordedPass] = Active("recorded_pass", RecordedPass())

# Those of replicas, by strategy and number, while they are active in some thread.
_OF_REPLICAS: dict[tuple[int, int], RecordedPass] = {}


@contextlib.contextmanager
def recorded_pass(
    tape: CurvatureTape | None,
    objective: Callable[[], tf.Tensor] | None = None,
    loss: tf.Tensor | None = None,
    refreshed: bool = False,
    gradient: list[tuple[Any, Any]] | None = None,
    curvature_tape: CurvatureTape | None = None,
) -> Iterator[None]:
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
    recorded = RecordedPass(tape, objective, loss, refreshed, gradient, curvature_tape)
    if not replicas.of_strategy():
        with PASS.using(recorded):
            yield
        return
    context = tf.distribute.get_replica_context()
    recorded = recorded._replace(replica_context=context)
    key = _place()
    outer = _OF_REPLICAS.get(key)
    _OF_REPLICAS[key] = recorded
    try:
        with PASS.using(recorded):
            yield
    finally:
        del _OF_REPLICAS[key]
        if outer is not None:
            _OF_REPLICAS[key] = outer


def active_pass() -> RecordedPass:
    """The recorded pass that is active in this thread, or on this replica in another one."""
    found = PASS.get()
    if found.tape is not None or not replicas.of_strategy():
        return found
    return _OF_REPLICAS.get(_place(), found)


def _place() -> tuple[int, int]:
    """Which replica of which strategy this is."""
    return id(tf.distribute.get_strategy()), replicas.index()
