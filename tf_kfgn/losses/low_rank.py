"""Diagonal plus low rank: the likelihood of a loss that states its own curvature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.losses.base import Likelihood
from tf_kfgn.losses.gauss_newton_loss import GaussNewtonLoss
from tf_kfgn.losses.row_losses import describe
from tf_kfgn.replicas import normal_of_examples


class DiagonalPlusLowRank(Likelihood):
    """Hessians of rows `d + U U^T - V V^T`, made semi-definite.

    With `W = d^-1/2 [U, V]`, the Hessian is `d^1/2 (I + W Σ W^T) d^1/2`, Σ being 1 for U and -1 for
    V. A decomposition of W finds the eigenvalues λ of the middle that are not 1, and their
    eigenvectors Q. Negative ones are clipped at 0. By Sylvester's law the middle has as many of
    them as the Hessian: what is semi-definite stays as it is. A diagonal below √ε of the largest
    one of its row, with ε the precision of the outputs, counts as that much.
    """

    def __init__(
        self, outputs: tf.Tensor, weights: tf.Tensor, loss: GaussNewtonLoss, y: Any
    ) -> None:
        """Ask the loss, and decompose.

        Here and not at the first use, which may be inside a loop or a branch of a graph.

        Args:
            outputs: Where the curvature is taken, shape `(batch_size, *positions, D)`.
            weights: Of each row in the per-example loss, shape `(batch_size, *positions)`.
            loss: States its curvature.
            y: Targets.

        Raises:
            ValueError: If the curvature does not have the shapes that it should.
        """
        super().__init__(outputs, weights)
        targets = tf.convert_to_tensor(y)
        if targets.dtype.is_floating:
            targets = tf.cast(targets, self.outputs.dtype)
        dtype = self.outputs.dtype
        stated = loss.output_curvature(targets, tf.identity(self.outputs))
        diagonal = tf.cast(stated.diagonal, dtype)
        parts = [None if part is None else tf.cast(part, dtype) for part in stated[1:]]
        columns, signs = [tf.zeros_like(self.outputs)[..., None]], [1.0]  # so that there is one
        for part, sign in zip(parts, (1.0, -1.0), strict=True):
            if part is not None:
                columns.append(part)
                signs += [sign] * (part.shape[-1] or 0)
        for part in (diagonal[..., None], *columns):
            if not part.shape[:-1].is_compatible_with(self.outputs.shape) or not part.shape[-1]:
                raise ValueError(
                    f"The loss {describe(loss)} states a curvature with parts of shapes "
                    f"{[None if p is None else tuple(p.shape) for p in (diagonal, *parts)]} for "
                    f"outputs of shape {self.outputs.shape}. The diagonal must have the shape of "
                    "the outputs, and columns the same with one more axis at the end."
                )
        self._decompose(diagonal, tf.concat(columns, axis=-1), tf.constant(signs, diagonal.dtype))

    def _decompose(self, diagonal: tf.Tensor, columns: tf.Tensor, signs: tf.Tensor) -> None:
        """Find the square root of d, and λ and Q; NaN in rows that are not finite."""
        largest = diagonal + tf.reduce_sum(tf.square(columns), axis=-1)
        largest = tf.reduce_max(largest, axis=-1, keepdims=True)
        finite = tf.math.is_finite(largest)
        # A diagonal of nothing would make W infinite. The root balances what is added to the
        # Hessian with the rounding that a large W brings.
        floor = largest * math.sqrt(np.finfo(diagonal.dtype.as_numpy_dtype).eps)
        roots = tf.sqrt(tf.where(floor > 0, tf.maximum(diagonal, floor), 1))
        scaled = tf.where(finite[..., None], columns / roots[..., None], 0)
        basis, triangle = tf.linalg.qr(scaled)
        values, vectors = tf.linalg.eigh(tf.matmul(triangle * signs, triangle, transpose_b=True))
        nan = tf.constant(float("nan"), diagonal.dtype)
        self._values = tf.where(finite, tf.maximum(1 + values, 0), nan)
        self._basis = tf.matmul(basis, vectors)
        self._roots = tf.where(finite, tf.where(largest > 0, roots, 0), nan)

    @override
    def row_root_product(self, vector: tf.Tensor) -> tf.Tensor:
        """S is `d^1/2 (I + Q (λ^1/2 - 1) Q^T)`."""
        return self._roots * self._middle_times(tf.sqrt(self._values), vector)

    @override
    def row_product(self, vector: tf.Tensor) -> tf.Tensor:
        return self._roots * self._middle_times(self._values, self._roots * vector)

    @override
    def row_sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Gaussian."""
        return self.row_root_product(normal_of_examples(self.outputs, seed))

    @override
    def mean_blocks(self) -> tf.Tensor:
        P, D = self.positions, self.features
        columns = tf.reshape(self._roots[..., None] * self._basis, (-1, P, D, self._rank))
        weights = tf.reshape(self._values - 1, (-1, P, 1, self._rank))
        weights *= tf.reshape(self.weights, (-1, P, 1, 1))
        low_rank = tf.einsum("npir,npjr->pij", columns * weights, columns) / self.batch_size
        return tf.linalg.diag(self._mean_over_batch(tf.square(self._roots))) + low_rank

    @property
    def _rank(self) -> int:
        return int(self._values.shape[-1])

    def _middle_times(self, values: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
        along = tf.linalg.matvec(self._basis, vector, transpose_a=True)
        return vector + tf.linalg.matvec(self._basis, (values - 1) * along)
