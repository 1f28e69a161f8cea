"""The losses of rows, as a Keras loss computes them before it reduces, and their derivatives."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.layers import mask_of

MAX_WIDTH = 256


class RowLosses:
    """One loss for each row of a batch of outputs, differentiated twice in the outputs.

    A row is what gets one loss: the last axis, all of an example, or a single output. Rows must
    be independent of each other, which no shape can tell. A loss that is a scalar counts as the
    mean of the losses of the examples.

    Attributes:
        values: The losses, shape `(batch_size, *positions)`: that of the outputs, without the
            axes at its end that make up a row. Or the mean over the batch, a scalar.
        mask: The mask that the loss itself sets (for `ignore_class`, say), shaped like `values`,
            or None.
    """

    def __init__(self, loss: keras.losses.Loss, y: Any, outputs: tf.Tensor) -> None:
        """Run the loss on a copy of the outputs, which does not remember its logits.

        Args:
            loss: A Keras loss object.
            y: Targets.
            outputs: What the loss takes, shape `(batch_size, *positions, *features)`.

        Raises:
            ValueError: If the loss does not return one value for each row.
        """
        self._loss = loss
        self._outputs = tf.identity(tf.cast(outputs, loss.dtype))
        targets = keras.ops.convert_to_tensor(y, dtype=loss.dtype)
        with tf.GradientTape(persistent=True) as self._tape:
            self._tape.watch(self._outputs)
            with tf.GradientTape() as inner:
                inner.watch(self._outputs)
                values = loss.call(targets, self._outputs)
            self._gradient = inner.gradient(
                values, self._outputs, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
        self.mask = mask_of(values)
        self.values = tf.convert_to_tensor(values)
        rank = self.values.shape.rank
        self._axes = max(rank or 0, 1)
        self._count = tf.shape(self._outputs)[0] if rank == 0 else 1
        if rank is None or not self.values.shape.is_compatible_with(outputs.shape[:rank]):
            raise ValueError(
                f"The loss {describe(loss)} gives values of shape {self.values.shape} for outputs "
                f"of shape {outputs.shape}, but curvature needs one value for each row: a loss "
                "that is a function of the last axis, or of each example."
            )

    def diagonal(self) -> tf.Tensor:
        """The Hessians times a vector of ones, shaped like the outputs: a diagonal, if they are."""
        return self.product(tf.ones_like(self._outputs))

    def hessians(self) -> tf.Tensor:
        """The Hessian of each row, shape `(rows of the batch, D, D)`.

        Raises:
            ValueError: If a row is longer than `MAX_WIDTH`, or an axis of it is not static.
        """
        features = self._outputs.shape[self._axes :]
        width = features.num_elements()
        if width is None or width > MAX_WIDTH:
            raise ValueError(
                f"The curvature of the loss {describe(self._loss)} is found by differentiating it "
                f"for each output of a row, but {width or 'an unknown number of'} outputs are more "
                f"than the {MAX_WIDTH} this is done for. Use a loss whose curvature is known, or "
                "derive yours from tf_kfgn.losses.GaussNewtonLoss, which states its curvature as a "
                "diagonal plus low rank."
            )

        def column(index: tf.Tensor) -> tf.Tensor:
            unit = tf.one_hot(index, width, dtype=self._outputs.dtype)
            ones = [1] * self._axes
            vector = tf.reshape(unit, (*ones, *features))
            product = self.product(tf.broadcast_to(vector, tf.shape(self._outputs)))
            return tf.reshape(product, (-1, width))

        if width == 1:
            return column(tf.constant(0))[..., None]
        columns = tf.map_fn(column, tf.range(width), fn_output_signature=self._outputs.dtype)
        hessians = tf.transpose(tf.ensure_shape(columns, (width, None, width)), (1, 0, 2))
        return (hessians + tf.linalg.matrix_transpose(hessians)) / 2

    def product(self, vector: tf.Tensor) -> tf.Tensor:
        """The Hessians times a vector, both shaped like the outputs.

        Raises:
            ValueError: If TensorFlow has no second derivative for an operation of the loss.
        """
        try:
            product = self._tape.gradient(
                self._gradient,
                self._outputs,
                output_gradients=vector,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
        except LookupError as error:
            raise ValueError(
                f"TensorFlow cannot differentiate the loss {describe(self._loss)} twice: {error}"
            ) from error
        product = tf.convert_to_tensor(product)
        return product * tf.cast(self._count, product.dtype)


def describe(loss: Any) -> str:
    """How an error message calls a loss."""
    name = getattr(loss, "name", None) or getattr(loss, "__name__", None)
    return f"{type(loss).__name__}({name!r})" if name else repr(loss)
