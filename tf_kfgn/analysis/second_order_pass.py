"""One recorded pass whose gradients can be differentiated once more: the true Hessian.

Nothing is clipped here. The Hessian is that of the number which Keras reports, regularisers left
out, also where the loss is not convex in the outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.losses import logits_behind
from tf_kfgn.analysis.examples import Examples
from tf_kfgn.analysis.memory import check_memory
from tf_kfgn.enabling import recording
from tf_kfgn.numerics.checks import check_flag
from tf_kfgn.operations.features import num_features
from tf_kfgn.operations.operation import Operation
from tf_kfgn.recording.kept_state import keeping_state
from tf_kfgn.recording.tape import CurvatureTape

Product = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]


class SecondOrderPass:
    """A pass under a `CurvatureTape` and, around it, a tape that records its gradients.

    Attributes:
        tape: The inner tape, with the recorded operations.
        outer: The outer tape, which records what gradients the inner one takes.
        heads: The tensors that the loss works on: the outputs, or the logits behind them.
        batch_size: Examples in the batch.
    """

    def __init__(
        self, outer: tf.GradientTape, tape: CurvatureTape, outputs: Any, value: tf.Tensor
    ) -> None:
        """Hold the pass; `second_order_pass` makes it."""
        self.outer = outer
        self._value = value
        self.tape = tape
        self.heads = [self._head_of(output) for output in tf.nest.flatten(outputs)]
        self.batch_size = int(self.heads[0].shape[0])

    def _head_of(self, outputs: tf.Tensor) -> tf.Tensor:
        """The outputs, or the logits that Keras computes the loss from instead."""
        with self.outer.stop_recording():
            used = self.tape.gradient(self._value, outputs) is not None
        logits = logits_behind(outputs)
        return outputs if used or logits is None else logits

    def cotangents(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The gradient of each example's own loss at some tensors of the pass."""
        gradients = self.tape.gradient(
            self._value, list(tensors), unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return [self.batch_size * tf.convert_to_tensor(gradient) for gradient in gradients]

    def hessian_product(self, variables: Sequence[Any]) -> Product:
        """What multiplies the Hessian of the reported loss in some variables with a vector."""
        values = [variable.value for variable in variables]
        gradients = self.tape.gradient(
            self._value, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        return lambda vector: self._transposed(gradients, values, vector)

    def gauss_newton_product(self, variables: Sequence[Any]) -> Product:
        """What multiplies `J^T H_L J` with a vector, H_L being the true Hessian of the loss."""
        slopes = self.tape.gradient(self._value, self.heads)
        pairs = [(h, s) for h, s in zip(self.heads, slopes, strict=True) if s is not None]
        heads, slopes = [head for head, _ in pairs], [slope for _, slope in pairs]

        def product(vector: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            with self.outer.stop_recording():
                tangents = self.tape.jvp(vector, heads, variables)
            curved = self._transposed(slopes, heads, tangents)
            with self.outer.stop_recording():
                return self.tape.vjp(curved, heads, variables)

        return product

    def _transposed(
        self, targets: Sequence[Any], sources: Sequence[Any], vector: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """The derivatives of some recorded gradients, transposed, times a vector."""
        with self.outer.stop_recording():
            products = self.outer.gradient(
                targets,
                sources,
                output_gradients=list(vector),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
        return [tf.convert_to_tensor(product) for product in products]

    def hessians(self, tensor: tf.Tensor) -> tf.Tensor:
        """The Hessian of each example's loss in a tensor of the pass, by differentiating twice.

        Args:
            tensor: Shape `(batch_size, *features)`; examples must not meet after it.

        Returns:
            Shape `(batch_size, d, d)` for d features.
        """
        [gradient] = self.cotangents([tensor])
        return self._derivatives(gradient, tensor)

    def slopes(self, operation: Operation) -> tf.Tensor:
        """The f' of an elementwise operation, shape `(batch_size, d)`."""
        with self.outer.stop_recording():
            slope = self.tape.gradient(
                operation.output,
                operation.input,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
        return tf.reshape(slope, (self.batch_size, -1))

    def bends(self, operation: Operation, cotangent: tf.Tensor) -> tf.Tensor:
        """D of an elementwise operation, `f''(h) dE/da`, shape `(batch_size, d)`."""
        gradient = self._pulled_back(operation, cotangent)
        ones = tf.ones_like(operation.input)
        return tf.reshape(self._twice(gradient, operation.input, ones), (self.batch_size, -1))

    def jacobians(self, operation: Operation) -> tf.Tensor:
        """The Jacobian of each example of any operation, shape `(batch_size, d_out, d_in)`."""
        rows = []
        with self.outer.stop_recording():
            for unit in _units(operation.output):
                row = self.tape.gradient(
                    operation.output,
                    operation.input,
                    output_gradients=unit,
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
                rows.append(tf.reshape(row, (self.batch_size, -1)))
        return tf.stack(rows, axis=1)

    def bend_matrices(self, operation: Operation, cotangent: tf.Tensor) -> tf.Tensor:
        """D of any operation: the Hessian of `<dE/da, f(h)>` in h, `(batch_size, d_in, d_in)`."""
        return self._derivatives(self._pulled_back(operation, cotangent), operation.input)

    def _pulled_back(self, operation: Operation, cotangent: tf.Tensor) -> tf.Tensor:
        """`J^T g` with a constant g, as a function of the input."""
        return self.tape.gradient(
            operation.output,
            operation.input,
            output_gradients=tf.stop_gradient(cotangent),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    def _derivatives(self, gradient: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
        """The symmetric derivative of a gradient for each example."""
        rows = [
            tf.reshape(self._twice(gradient, tensor, unit), (self.batch_size, -1))
            for unit in _units(tensor)
        ]
        hessians = tf.stack(rows, axis=1)
        return (hessians + tf.linalg.matrix_transpose(hessians)) / 2

    def _twice(self, gradient: tf.Tensor, tensor: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
        [product] = self._transposed([gradient], [tensor], [tf.cast(vector, gradient.dtype)])
        return product

    def first_without_second_derivative(self) -> Operation | None:
        """The last recorded operation that TensorFlow cannot differentiate twice, or None."""
        for operation in reversed(self.tape.operations):
            for source in operation.inputs:
                try:
                    gradient = self.tape.gradient(operation.output, source)
                    if gradient is not None:
                        self._twice(gradient, source, tf.ones_like(source))
                except LookupError:
                    return operation
        return None


@contextlib.contextmanager
def second_order_pass(
    model: keras.Model, batch: Examples, loss: Any, training: bool = False
) -> Iterator[SecondOrderPass]:
    """A pass of a model, which is afterwards what it was before.

    Args:
        model: A built Keras model.
        batch: Inputs, and targets and weights as the loss takes them.
        loss: What `compile(loss=...)` takes.
        training: Whether the model runs as in training.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, there are no targets, or `training` is no flag.
        NotImplementedError: If a layer, or the loss, has no second derivative in TensorFlow.
    """
    check_flag("training", training)
    with recording(model), keeping_state(model):
        batch.require_targets()
        with tf.GradientTape(persistent=True) as outer:
            with CurvatureTape() as tape:
                outputs = model(batch.x, training=training)
                value = batch.value(loss, outputs)
            made = SecondOrderPass(outer, tape, outputs, value)
            with naming_layers(made, loss):
                yield made


@contextlib.contextmanager
def naming_layers(made: SecondOrderPass, loss: Any) -> Iterator[None]:
    """Turn TensorFlow's complaint about a missing derivative into one that names the layer."""
    try:
        yield
    except LookupError as error:
        operation = made.first_without_second_derivative()
        if operation is None:
            who = f"The loss {loss!r}"
        else:
            layer = operation.layer
            who = f"Layer {layer.name!r} ({type(layer).__name__})"
        raise NotImplementedError(
            f"{who} cannot be differentiated twice by TensorFlow, so the Hessian is not known: "
            f"{error}. Use the Gauss-Newton matrix (gauss_newton_blocks, "
            "analysis.gauss_newton_matrix), which needs first derivatives of the layers alone, or "
            "replace the layer."
        ) from error


def check_example_matrices(what: str, batch_size: int, width: int, dtype: tf.DType) -> None:
    """Refuse matrices of single examples that would not fit in memory.

    Raises:
        ValueError: If they do not fit.
    """
    check_memory(
        f"{what}: a {width} x {width} matrix for each of {batch_size} examples",
        3.0 * batch_size * width**2,
        dtype,
        "Pass fewer examples at a time.",
    )


def _units(tensor: tf.Tensor) -> Iterator[tf.Tensor]:
    """For each feature a tensor with 1 there, for every example, and 0 elsewhere."""
    width = num_features(tensor)
    for index in range(width):
        unit = tf.reshape(tf.one_hot(index, width, dtype=tensor.dtype), (1, *tensor.shape[1:]))
        yield tf.broadcast_to(unit, tf.shape(tensor))
