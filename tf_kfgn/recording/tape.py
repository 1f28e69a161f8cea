"""CurvatureTape: what one forward pass leaves behind, and products with its Jacobian.

Recording layers (`tf_kfgn.layers`) look up the tape that is active in their thread and leave an
`Operation` on it. Estimators (`tf_kfgn.factors`), optimizers and analysis read the operations and
the watched losses; none of them runs the model a second time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.layers import flattened_layers
from tf_kfgn._keras.scopes import leaving_no_trace
from tf_kfgn._keras.tapes import current_graph, is_inside, is_recording
from tf_kfgn.losses import Likelihood, WatchedLoss, resolve_loss
from tf_kfgn.numerics.sums import ordered_sum
from tf_kfgn.recording.active import REPLAY, close_tape, following, open_tape
from tf_kfgn.recording.products import JacobianProducts
from tf_kfgn.recording.replay import Draw, Replay


class CurvatureTape(JacobianProducts):
    """A persistent gradient tape that also records what curvature needs.

    Inside the tape every recording layer leaves its input and pre-activation. After the loss was
    watched, products with the Jacobian of the recorded pass, the Gauss-Newton matrix and the
    Kronecker factors can be formed without running the model again: the dropout masks are the
    same and no statistic is updated twice.

    ```python
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(x, training=True)
        loss = loss_fn(y, outputs)
        tape.watch_loss(loss_fn, y, outputs)
    gradients = tape.gradient(loss, model.trainable_variables)
    ```

    Attributes:
        operations: The recorded operations in the order of their execution.
        watched_losses: What `watch_loss` was told, in that order.
        draws: The seeds that random layers drew, in that order.
    """

    def __init__(self) -> None:
        """Create an empty tape; enter it with `with`."""
        super().__init__(persistent=True)
        self.operations: list[Any] = []
        self.watched_losses: list[WatchedLoss] = []
        self.draws: list[Draw] = []
        self._models: list[keras.Model] = []
        self._graph = current_graph()

    def __enter__(self) -> CurvatureTape:
        """Start recording in this thread."""
        super().__enter__()
        open_tape(self)
        self._graph = current_graph()
        return self

    def __exit__(self, typ: Any, value: Any, traceback: Any) -> None:
        """Stop recording."""
        close_tape(self)
        super().__exit__(typ, value, traceback)

    def reset(self) -> None:
        """Forget all that was recorded."""
        super().reset()
        for recorded in (self.operations, self.watched_losses, self.draws, self._models):
            recorded.clear()

    # What is recorded

    def record(self, operation: Any) -> None:
        """Add an operation; recording layers call this.

        Raises:
            ValueError: If it ran in a function or branch that the tape is outside of, and has a
                weight matrix. Any other such operation is passed over.
        """
        if current_graph() is self._graph:
            self.operations.append(operation)
        elif getattr(operation, "trainable", False):
            raise ValueError(
                f"Layer {operation.layer.name!r} ran inside a tf.function, a branch or a loop that "
                "this CurvatureTape is outside of, where its tensors do not exist. Open the tape "
                "inside of that function, or call the model without it."
            )

    def watch_model(self, model: keras.Model) -> None:
        """Note that a recording model was called; its variables give `variables` their order."""
        if all(model is not known for known in self._models):
            self._models.append(model)

    @tf.autograph.experimental.do_not_convert  # all that a loss calls takes seconds to convert
    def watch_loss(self, loss: Any, y: Any, outputs: Any, sample_weight: Any = None) -> None:
        """Watch the curvature of a loss with respect to the outputs of the recorded pass.

        Args:
            loss: What `compile(loss=...)` takes: a string, a Keras loss object, a loss function,
                a compiled model's loss, or a dict or list of these for several outputs.
            y: The targets as the loss takes them. None where the curvature does not need them.
            outputs: The tensor (or structure of tensors) that the recorded model returned.
            sample_weight: Weights as `fit` takes them, or None.

        Raises:
            ValueError: If the loss has no second derivative, is not a function of single rows, or
                needs targets (as one of probabilities that come from no softmax or sigmoid) and
                there are none.
        """
        with self.stop_recording() if is_recording(self) else contextlib.nullcontext():
            self.watched_losses.extend(
                resolve_loss(loss, y, outputs, sample_weight, self.operations)
            )

    @property
    def likelihoods(self) -> list[Likelihood]:
        """The likelihoods of the watched losses.

        Raises:
            ValueError: If no loss was watched.
        """
        if not self.watched_losses:
            raise ValueError(
                "This CurvatureTape has no loss to take the curvature of. Call "
                "tape.watch_loss(loss_fn, y, outputs)."
            )
        if not is_inside(self._graph):
            raise ValueError(
                "This CurvatureTape recorded inside a tf.function that has ended, and its tensors "
                "with it. Call optimizer.apply(..., tape=tape), and whatever else needs the tape, "
                "inside of that function."
            )
        return [watched.likelihood for watched in self.watched_losses]

    @property
    def outputs(self) -> list[tf.Tensor]:
        """The outputs of the model that the watched losses were given.

        Raises:
            ValueError: If no loss was watched.
        """
        if not self.watched_losses:
            raise ValueError(
                "Which outputs? Pass `outputs`, or call tape.watch_loss(loss_fn, y, outputs)."
            )
        return [watched.outputs for watched in self.watched_losses]

    @property
    def variables(self) -> list[Any]:
        """Trainable variables of the recorded pass, ordered as in `model.trainable_variables`."""
        found: list[Any] = []
        for model in self._models:
            found += [v for v in model.trainable_variables if all(v is not f for f in found)]
        return found or list(self.watched_variables())

    @property
    def models(self) -> list[keras.Model]:
        """The recording models that were called inside the tape."""
        return list(self._models)

    @property
    def uses_float16(self) -> bool:
        """Whether some operation of the recorded pass ran in half precision."""
        return any(operation.output.dtype == tf.float16 for operation in self.operations)

    @property
    def crosses_replicas(self) -> bool:
        """Whether some recorded operation depends on the examples of other replicas."""
        return any(getattr(one, "crosses_replicas", False) for one in self.operations)

    # The same batch again

    def loss_of(self, outputs: Any) -> tf.Tensor:
        """The watched losses of other outputs for the same targets, weights included.

        Args:
            outputs: Structured like the outputs that were watched.

        Returns:
            A scalar: the sum of the losses as Keras reports them, without regularisers.
        """
        return ordered_sum([watched.value(outputs) for watched in self.watched_losses])

    @property
    def losses_are_nonnegative(self) -> bool:
        """Whether none of the watched losses can be negative, whatever the outputs."""
        return all(watched.is_nonnegative for watched in self.watched_losses)

    def watched_value(self) -> tf.Tensor | None:
        """The watched losses of the recorded pass, without regularisers; None without targets."""
        values = [watched.recorded_value() for watched in self.watched_losses]
        return None if not values or any(v is None for v in values) else ordered_sum(values)

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """Let layers draw the random numbers of the recorded pass again, and change no state.

        Inside this context a model that is called as it was called inside the tape uses the same
        dropout masks and leaves its state as it is: moving statistics, counters, metrics, and any
        other variable that a layer or a loss assigns.
        """
        layers = {id(layer): layer for model in self._models for layer in flattened_layers(model)}
        with following(Replay(self.draws)), leaving_no_trace([*layers.values()]):
            yield

    @contextlib.contextmanager
    def of_part(self) -> Iterator[CurvatureTape]:
        """Record a pass of a part of the same batch on a tape of its own.

        The model draws from the seeds of this tape, though masks of fewer examples are others, and
        updates no statistic.

        ```python
        with tape.of_part() as part:
            outputs = model(x[:100], training=True)
            part.watch_loss(loss_fn, y[:100], outputs)
        ```
        """
        with CurvatureTape() as part, REPLAY.using(Replay(self.draws)), leaving_no_trace([]):
            yield part

    def repeating(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that can be called again later, with the random numbers of its call now.

        Args:
            function: Something that is called next, inside this tape.
        """
        since = len(self.draws)

        def again(*args: Any) -> Any:
            with following(Replay(self.draws[since:])), leaving_no_trace([]):
                return function(*args)

        return again
