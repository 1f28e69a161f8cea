"""A Kronecker block: average, damp, invert and precondition with `A ⊗ G`.

Every function is pure: values in, values out. The optimizer holds the variables. With groups,
every value has a leading axis for them, and the matrix is block-diagonal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from typing_extensions import override

from tf_kfgn.blocks.block import Block, Slot
from tf_kfgn.blocks.factor import (
    damped_inverse,
    is_finite,
    mean_diagonal,
    times,
    times_on_right,
)
from tf_kfgn.numerics.precision import at_least_float32
from tf_kfgn.operations.weight_matrix import WeightMatrix, is_large


class KroneckerState(NamedTuple):
    """What a block remembers: factors as in `tf_kfgn.blocks.factor`, in any one type.

    Attributes:
        A: Moving average of the input factor.
        G: Moving average of the output factor.
        A_inverse: Inverse of the damped A; the identity until the first inversion.
        G_inverse: Inverse of the damped G; the identity until the first inversion.
    """

    A: tf.Tensor
    G: tf.Tensor
    A_inverse: tf.Tensor
    G_inverse: tf.Tensor


@dataclasses.dataclass(frozen=True)
class KroneckerBlock(Block):
    """Variables that form one weight matrix.

    Attributes:
        indices: Positions of kernel [and bias] among the variables of the optimizer.
        matrix: How their values are joined and split.
        max_factor_size: Rows above which a factor is diagonal; None for no limit.
    """

    matrix: WeightMatrix
    max_factor_size: int | None = None

    @property
    @override
    def name(self) -> str:
        return self.matrix.name

    @property
    def rows(self) -> int:
        """Rows of the joint matrix: in_features, and one more with a bias."""
        return self.matrix.in_features + len(self.indices) - 1

    @property
    def columns(self) -> int:
        """Columns of the joint matrix: out_features."""
        return self.matrix.out_features

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and G."""
        thin_A = self.matrix.diagonal_input or is_large(self.rows, self.max_factor_size)
        thin_G = is_large(self.columns, self.max_factor_size)
        leading = self.matrix.leading
        return (
            (*leading, self.rows, 1 if thin_A else self.rows),
            (*leading, self.columns, 1 if thin_G else self.columns),
        )

    @property
    @override
    def slots(self) -> list[Slot]:
        A, G = self.factor_shapes
        return [
            Slot("A", "zeros", A),
            Slot("G", "zeros", G),
            Slot("A_inverse", "identity", A),
            Slot("G_inverse", "identity", G),
        ]

    @property
    @override
    def inversion_cost(self) -> int:
        """The cubes of both factors, where they are dense."""
        return sum(math.prod(shape) * shape[-1] for shape in self.factor_shapes if shape[-1] > 1)

    @override
    def state(self, values: Sequence[Any]) -> KroneckerState:
        return KroneckerState(*values)

    @override
    def estimate(self, state: KroneckerState) -> tuple[tf.Tensor, ...]:
        """The averages A and G."""
        return (state.A, state.G)

    def with_bias_row(
        self, estimate: Sequence[tf.Tensor], old: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """An estimate in the shapes of this block, whose bias may have been frozen since.

        Then A has no row for it. It gets that of the old average, without the entries beside the
        diagonal: the inverse is that of the kernel alone, and PSD stays PSD.

        Args:
            estimate: A new A and G.
            old: The averages.
        """
        A, G = estimate
        if A.shape[-2] == self.rows:
            return A, G
        corner = tf.cast(old[0][..., -1:, -1:], A.dtype)
        if old[0].shape[-1] == 1:  # a factor of one row less may be whole
            diagonal = A if A.shape[-1] == 1 else tf.linalg.diag_part(A)[..., None]
            return tf.concat([diagonal, corner], axis=-2), G
        pad = [[0, 0]] * (len(A.shape) - 2)
        beside = tf.pad(corner, [*pad, [self.rows - 1, 0], [0, 0]])
        return tf.concat([tf.pad(A, [*pad, [0, 1], [0, 0]]), beside], axis=-1), G

    @override
    def average(
        self, state: KroneckerState, estimate: Sequence[tf.Tensor], decay: tf.Tensor
    ) -> KroneckerState:
        A, G = estimate
        return average(state, A, G, decay)

    @override
    def invert(self, state: KroneckerState, damping: tf.Tensor) -> tuple[KroneckerState, tf.Tensor]:
        return invert(state, damping)

    @override
    def precondition(
        self, state: KroneckerState, tensors: Sequence[tf.Tensor]
    ) -> dict[int, tf.Tensor]:
        return self.split(precondition(state, self.join(tensors)), tensors)

    def join(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """The joint matrix of this block, from one tensor for each variable of the optimizer."""
        return self.matrix.join([tensors[index] for index in self.indices])

    def split(self, matrix: tf.Tensor, like: Sequence[Any]) -> dict[int, tf.Tensor]:
        """Pieces of a joint matrix, by position, shaped like the tensors at these positions."""
        shapes = [like[index].shape for index in self.indices]
        return dict(zip(self.indices, self.matrix.split(matrix, shapes), strict=True))


def average(state: KroneckerState, A: tf.Tensor, G: tf.Tensor, decay: tf.Tensor) -> KroneckerState:
    """Mix new factors into the moving averages: `s <- decay * s + (1 - decay) * x`."""
    dtype = at_least_float32(state.A.dtype)
    decay = tf.cast(decay, dtype)

    def mixed(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        mean = decay * tf.cast(old, dtype) + (1 - decay) * tf.cast(new, dtype)
        return tf.cast(mean, old.dtype)

    return state._replace(A=mixed(state.A, A), G=mixed(state.G, G))


def invert(state: KroneckerState, damping: tf.Tensor) -> tuple[KroneckerState, tf.Tensor]:
    """Invert the damped factors `A + π √τ I` and `G + √τ / π I`.

    If a factorisation fails, the last good inverses stay.

    Args:
        state: The block.
        damping: τ, a scalar.

    Returns:
        The new state, and whether both factorisations succeeded.
    """
    kept = state.A.dtype
    dtype = at_least_float32(kept)
    A, G = (tf.cast(factor, dtype) for factor in (state.A, state.G))
    root = tf.sqrt(tf.cast(damping, dtype))
    pi = scale_ratio(A, G)
    A_inverse = tf.cast(damped_inverse(A, pi * root), kept)
    G_inverse = tf.cast(damped_inverse(G, root / pi), kept)
    good = is_finite(A_inverse) & is_finite(G_inverse)
    return (
        state._replace(
            A_inverse=tf.where(good, A_inverse, state.A_inverse),
            G_inverse=tf.where(good, G_inverse, state.G_inverse),
        ),
        good,
    )


def precondition(state: KroneckerState, matrix: tf.Tensor) -> tf.Tensor:
    """The damped inverse block times a matrix of shape `([groups,] in [+ 1], out)`."""
    dtype = at_least_float32(state.A.dtype)
    A_inverse, G_inverse = (tf.cast(i, dtype) for i in (state.A_inverse, state.G_inverse))
    product = times(A_inverse, tf.cast(matrix, dtype))
    return tf.cast(times_on_right(product, G_inverse), matrix.dtype)


def scale_ratio(A: tf.Tensor, G: tf.Tensor) -> tf.Tensor:
    """π of the factored damping, `π² = (tr A / dim A) / (tr G / dim G)`; 1 if a trace vanishes.

    Martens & Grosse (2015), section 6.3. Has shape `([groups,] 1, 1)`.
    """
    mean_A, mean_G = mean_diagonal(A), mean_diagonal(G)
    usable = (mean_A > 0) & (mean_G > 0)
    one = tf.ones_like(mean_A)
    ratio = tf.where(usable, mean_A, one) / tf.where(usable, mean_G, one)
    return tf.sqrt(tf.where(usable, ratio, one))
