"""Any other loss of rows: the whole Hessian of each row, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_kfgn.losses import random
from tf_kfgn.losses.base import Likelihood
from tf_kfgn.losses.precision import at_least_float32

MAX_WIDTH = 256


class General(Likelihood):
    """A loss that is a twice-differentiable function of each row.

    Costs one backward pass through the loss for each element of a row, and an eigendecomposition
    of each row's Hessian. Negative eigenvalues are clipped at 0: where the loss is not convex
    the curvature is that of its convex part.
    """

    def __init__(
        self,
        outputs: tf.Tensor,
        weights: tf.Tensor,
        row_losses: Callable[[tf.Tensor], tf.Tensor],
    ) -> None:
        """Differentiate and decompose.

        Args:
            outputs: See `Likelihood`.
            weights: See `Likelihood`.
            row_losses: The loss of each row, unweighted, as a function of `outputs`.

        Raises:
            ValueError: If the rows are wider than `MAX_WIDTH`.
        """
        super().__init__(outputs, weights)
        if self.features > MAX_WIDTH:
            raise ValueError(
                f"The curvature of this loss is found by differentiating it for each output, but "
                f"{self.features} outputs are more than the {MAX_WIDTH} this is done for. Use a "
                "loss whose curvature is known, or one that is a sum over its elements."
            )
        hessians = tf.cast(_hessians(row_losses, outputs), at_least_float32(outputs.dtype))
        values, vectors = tf.linalg.eigh(0.5 * (hessians + tf.linalg.matrix_transpose(hessians)))
        root = vectors * tf.sqrt(tf.maximum(values, 0))[..., None, :]
        self._root = tf.cast(root, outputs.dtype)

    def row_root_product(self, vector: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_root_product`: S is `V sqrt(max(λ, 0))`."""
        return tf.linalg.matvec(self._root, vector)

    def row_product(self, vector: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_product`."""
        return tf.linalg.matvec(self._root, tf.linalg.matvec(self._root, vector, transpose_a=True))

    def row_sample(self, seed: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_sample`."""
        return self.row_root_product(random.normal_like(self.outputs, seed))

    def mean_blocks(self) -> tf.Tensor:
        """See `Likelihood.mean_blocks`."""
        shape = (-1, self.positions, self.features, self.features)
        weighted = self._root * tf.sqrt(self.weights)[..., None, None]
        root = tf.reshape(weighted, shape)
        return tf.einsum("npik,npjk->pij", root, root) / self.batch_size


def _hessians(row_losses: Callable[[tf.Tensor], tf.Tensor], outputs: tf.Tensor) -> tf.Tensor:
    """The Hessian of each row, shape `(batch_size, *positions, D, D)`."""
    zero = tf.UnconnectedGradients.ZERO
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(outputs)
        with tf.GradientTape() as inner:
            inner.watch(outputs)
            total = tf.reduce_sum(row_losses(outputs))
        gradient = inner.gradient(total, outputs, unconnected_gradients=zero)
        elements = tf.unstack(gradient, axis=-1)
    rows = [outer.gradient(e, outputs, unconnected_gradients=zero) for e in elements]
    return tf.stack(rows, axis=-2)
