"""CurvatureTape: what one forward pass leaves behind, and products with its Jacobian.

Recording layers (`tf_kfgn.layers`) look up the tape that is active in their thread and leave an
`Operation` on it. Estimators (`tf_kfgn.factors`), optimizers and analysis read the operations and
the watched losses; none of them runs the model a second time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.losses import Likelihood, WatchedLoss, resolve_loss
from tf_kfgn.numerics.precision import at_least_float32, unit_scale
from tf_kfgn.recording.active import active_tape, following, pop_tape, push_tape
from tf_kfgn.recording.replay import Draw, Replay, make_repeatable

__all__ = ["CurvatureTape", "active_tape"]


class CurvatureTape(tf.GradientTape):
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

    def __enter__(self) -> CurvatureTape:
        """Start to record in this thread."""
        super().__enter__()
        push_tape(self)
        return self

    def __exit__(self, typ: Any, value: Any, traceback: Any) -> None:
        """Stop to record."""
        pop_tape()
        super().__exit__(typ, value, traceback)

    # What is recorded

    def record(self, operation: Any) -> None:
        """Add an operation; recording layers call this."""
        self.operations.append(operation)

    def watch_model(self, model: keras.Model) -> None:
        """Note that a recording model was called; its variables give `variables` their order."""
        if all(model is not known for known in self._models):
            self._models.append(model)
            for layer in model._flatten_layers():
                make_repeatable(layer)

    def watch_loss(self, loss: Any, y: Any, outputs: Any, sample_weight: Any = None) -> None:
        """Watch the curvature of a loss with respect to the outputs of the recorded pass.

        Args:
            loss: What `compile(loss=...)` takes: a string, a Keras loss object, a loss function,
                a compiled model's loss, or a dict or list of these for several outputs.
            y: The targets as the loss takes them. None where the curvature does not need them.
            outputs: The tensor (or structure of tensors) that the recorded model returned.
            sample_weight: Weights as `fit` takes them, or None.

        Raises:
            ValueError: If the loss has no second derivative, is no function of single rows, or
                needs targets (as one of probabilities that come from no softmax or sigmoid) and
                there are none.
        """
        with self.stop_recording() if self._recording else contextlib.nullcontext():
            self.watched_losses.extend(resolve_loss(loss, y, outputs, sample_weight))

    @property
    def likelihoods(self) -> list[Likelihood]:
        """The likelihoods of the watched losses.

        Raises:
            ValueError: If no loss was watched.
        """
        if not self.watched_losses:
            raise ValueError(
                "This CurvatureTape has no loss to take the curvature of. Call "
                "tape.watch_loss(loss_fn, y, outputs) inside its `with` block."
            )
        return [watched.likelihood for watched in self.watched_losses]

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

    # Products with the Jacobian of the recorded pass

    def cotangents(
        self, outputs: tf.Tensor, column: tf.Tensor, targets: Sequence[Any]
    ) -> list[tf.Tensor]:
        """Gradients of <column, outputs>, in float32 at least.

        Where the pass ran in half precision, the column goes backwards scaled.

        Args:
            outputs: A tensor of the recorded pass.
            column: A cotangent, shaped like it.
            targets: Tensors of the pass, and variables.

        Returns:
            One tensor for each target, zeros where the outputs do not depend on it.
        """
        scale = unit_scale([column]) if self.uses_float16 else None
        if scale is not None:
            column = tf.cast(column, scale.dtype) * scale
        products = self._transpose_product([outputs], list(targets), [column])
        products = [tf.cast(p, at_least_float32(p.dtype)) for p in products]
        return products if scale is None else [p / tf.cast(scale, p.dtype) for p in products]

    def vjp(
        self, cotangents: Any, outputs: Any = None, variables: Sequence[Any] | None = None
    ) -> list[tf.Tensor]:
        """Vector-Jacobian product: the gradient of <cotangents, outputs>.

        Args:
            cotangents: Structure of tensors shaped like `outputs`.
            outputs: Outputs to differentiate. Defaults to those of the watched losses.
            variables: Variables to differentiate for. Defaults to `self.variables`.

        Returns:
            One tensor for each variable, zeros where the outputs do not depend on it.
        """
        outputs = self._outputs() if outputs is None else tf.nest.flatten(outputs)
        variables = self.variables if variables is None else list(variables)
        return self._transpose_product(outputs, variables, tf.nest.flatten(cotangents))

    def jvp(
        self,
        tangents: Sequence[tf.Tensor],
        outputs: Any = None,
        variables: Sequence[Any] | None = None,
    ) -> Any:
        """Jacobian-vector product of the recorded pass, without a second forward pass.

        The vector-Jacobian product is linear in its cotangent; the transpose of that linear map
        is the Jacobian itself. In a graph the first product is never executed.

        Args:
            tangents: One tensor for each variable, shaped like it.
            outputs: Outputs to differentiate. Defaults to those of the watched losses.
            variables: The variables that `tangents` belong to. Defaults to `self.variables`.

        Returns:
            The derivative of each output along the tangents, in the structure of `outputs`; a
            single tensor if one output was watched. In float32 at least.

        Raises:
            ValueError: If the number of tangents is not the number of variables.
        """
        [product] = self.jvps([tangents], outputs, variables)
        return product

    def jvps(
        self,
        tangents: Sequence[Sequence[tf.Tensor]],
        outputs: Any = None,
        variables: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Jacobian-vector products of the recorded pass with several vectors; see `jvp`.

        Args:
            tangents: Vectors as `jvp` takes one.
            outputs: See `jvp`.
            variables: See `jvp`.

        Returns:
            What `jvp` returns, for each vector.
        """
        variables = self.variables if variables is None else list(variables)
        for vector in tangents:
            if len(vector) != len(variables):
                raise ValueError(
                    f"`tangents` must hold one tensor for each of the {len(variables)} variables "
                    f"{[v.name for v in variables]}, but holds {len(vector)}."
                )
        flat = self._outputs() if outputs is None else tf.nest.flatten(outputs)
        with tf.GradientTape(persistent=len(tangents) > 1) as outer:
            cotangents = [tf.zeros_like(output) for output in flat]
            outer.watch(cotangents)
            products = self._transpose_product(flat, variables, cotangents)
        structure = outputs if outputs is not None else (flat if len(flat) > 1 else flat[0])
        return [
            tf.nest.pack_sequence_as(structure, self._transposed(outer, products, cotangents, v))
            for v in tangents
        ]

    def _transposed(
        self,
        outer: tf.GradientTape,
        products: list[tf.Tensor],
        cotangents: list[tf.Tensor],
        vector: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        """The transpose of the map from cotangents to products, times a vector."""
        scale = unit_scale(vector) if self.uses_float16 else None
        if scale is not None:
            vector = [t * tf.cast(scale, t.dtype) for t in vector]
        result = outer.gradient(
            products,
            cotangents,
            output_gradients=[tf.cast(t, p.dtype) for t, p in zip(vector, products, strict=True)],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        result = [tf.cast(r, at_least_float32(r.dtype)) for r in result]
        return result if scale is None else [r / tf.cast(scale, r.dtype) for r in result]

    def gauss_newton_vector_product(
        self, vectors: Sequence[tf.Tensor], variables: Sequence[Any] | None = None
    ) -> list[tf.Tensor]:
        """Product of the Gauss-Newton matrix of the watched losses with a vector.

        The matrix is that of the loss as Keras reports it, without regularisers:
        `sum_n w_n J_n^T H_n J_n` with the weight `w_n` that the loss gives example n.

        Args:
            vectors: One tensor for each variable, shaped like it.
            variables: The variables that `vectors` belong to. Defaults to `self.variables`.

        Returns:
            One tensor for each variable.
        """
        variables = self.variables if variables is None else list(variables)
        likelihoods = self.likelihoods
        outputs = [likelihood.recorded for likelihood in likelihoods]
        tangents = self.jvp(vectors, outputs, variables)
        curved = [
            likelihood.hessian_product(tangent) / likelihood.batch_size
            for likelihood, tangent in zip(likelihoods, tangents, strict=True)
        ]
        scale = unit_scale(curved) if self.uses_float16 else None
        if scale is None:
            return self._transpose_product(outputs, variables, curved)
        products = self._transpose_product(outputs, variables, [c * scale for c in curved])
        return [product / tf.cast(scale, product.dtype) for product in products]

    def _outputs(self) -> list[tf.Tensor]:
        if not self.watched_losses:
            raise ValueError(
                "Which outputs? Pass `outputs`, or call tape.watch_loss(loss_fn, y, outputs) "
                "inside the `with` block."
            )
        return [watched.outputs for watched in self.watched_losses]

    def _transpose_product(
        self, outputs: list[tf.Tensor], variables: list[Any], cotangents: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        # Keras' variables have no TensorFlow dtype, which zeros for an unconnected one need.
        values = [v.value if isinstance(v, keras.Variable) else v for v in variables]
        cotangents = [tf.cast(c, o.dtype) for c, o in zip(cotangents, outputs, strict=True)]
        products = self.gradient(
            outputs,
            values,
            output_gradients=cotangents,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return [tf.convert_to_tensor(product) for product in products]  # an embedding has slices

    # The same batch again

    def loss_of(self, outputs: Any) -> tf.Tensor:
        """The watched losses of other outputs for the same targets, weights included.

        Args:
            outputs: Structured like the outputs that were watched.

        Returns:
            A scalar: the sum of the losses as Keras reports them, without regularisers.
        """
        return tf.add_n([watched.value(outputs) for watched in self.watched_losses])

    @contextlib.contextmanager
    def replaying(self, since: int = 0) -> Iterator[None]:
        """Let layers draw the random numbers of the recorded pass again, and update no statistic.

        Inside this context a model that is called as it was called inside the tape uses the same
        dropout masks and leaves its state as it is.

        Args:
            since: Number of the first draw to repeat.
        """
        with following(Replay(self.draws[since:])):
            yield

    def repeating(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that can be called again later, with the random numbers of its call now.

        Args:
            function: Something that is called next, inside this tape.
        """
        since = len(self.draws)

        def again(*args: Any) -> Any:
            with self.replaying(since):
                return function(*args)

        return again
