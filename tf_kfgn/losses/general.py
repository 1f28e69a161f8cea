"""The general rule: the Hessian of any loss by automatic differentiation, made semi-definite."""

from __future__ import annotations

import tensorflow as tf
from typing_extensions import override

from tf_kfgn.losses.base import Likelihood
from tf_kfgn.losses.row_losses import RowLosses
from tf_kfgn.replicas import normal_of_examples


class General(Likelihood):
    """A loss that is a twice-differentiable function of each row of the model's outputs.

    Costs one backward pass through the loss for each element of a row, and an eigendecomposition
    of each row's Hessian, which depends on the targets. Negative eigenvalues are clipped at 0; a
    convex loss has none. A loss whose second derivative vanishes has no curvature at all.
    """

    def __init__(self, outputs: tf.Tensor, weights: tf.Tensor, losses: RowLosses) -> None:
        """Differentiate and decompose.

        Here and not at the first use, which may be inside a loop or a branch of a graph.

        Args:
            outputs: Where the curvature is taken, shape `(batch_size, *positions, *features)`.
            weights: Of each row in the per-example loss, shape `(batch_size, *positions)`.
            losses: The losses of the rows at these outputs, unweighted.

        Raises:
            ValueError: If the rows are too wide for a dense Hessian.
        """
        super().__init__(outputs, weights)
        hessians = tf.cast(losses.hessians(), self.outputs.dtype)
        self._hessians, self._roots = clip_eigenvalues(hessians)

    @override
    def row_root_product(self, vector: tf.Tensor) -> tf.Tensor:
        """S is symmetric."""
        return self._times(self._roots, vector)

    @override
    def row_product(self, vector: tf.Tensor) -> tf.Tensor:
        return self._times(self._hessians, vector)

    @override
    def row_sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Gaussian."""
        return self.row_root_product(normal_of_examples(self.outputs, seed))

    @override
    def mean_blocks(self) -> tf.Tensor:
        P, D = self.positions, self.features
        weights = tf.cast(tf.reshape(self.weights, (-1, P, 1, 1)), self._hessians.dtype)
        mean = tf.reduce_mean(weights * tf.reshape(self._hessians, (-1, P, D, D)), axis=0)
        return tf.cast(mean, self.outputs.dtype)

    def _times(self, matrices: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
        rows = tf.reshape(tf.cast(vector, matrices.dtype), (-1, self.features))
        product = tf.reshape(tf.linalg.matvec(matrices, rows), tf.shape(self.outputs))
        return tf.cast(tf.ensure_shape(product, self.outputs.shape), self.outputs.dtype)


def clip_eigenvalues(matrices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The nearest positive semi-definite matrices, and their symmetric roots.

    The symmetric root is the only one that does not depend on the signs and the order of the
    eigenvectors, which differ between a plain graph and XLA.

    Args:
        matrices: Symmetric, shape `(..., D, D)`.

    Returns:
        Two tensors of that shape, NaN where a matrix is not finite.
    """
    if matrices.shape[-1] == 1:
        clipped = tf.maximum(matrices, 0)
        return clipped, tf.sqrt(clipped)
    finite = tf.reduce_all(tf.math.is_finite(matrices), axis=(-2, -1), keepdims=True)
    # The decomposition of a NaN is an error, which would hide a loss that has become NaN.
    values, vectors = tf.linalg.eigh(tf.where(finite, matrices, tf.zeros_like(matrices)))
    values = tf.maximum(values, 0)[..., None, :]
    nan = tf.constant(float("nan"), matrices.dtype)
    clipped, roots = (
        tf.where(finite, tf.matmul(vectors * scale, vectors, transpose_b=True), nan)
        for scale in (values, tf.sqrt(values))
    )
    return clipped, roots
