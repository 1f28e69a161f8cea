"""Step size and momentum from the exact Gauss-Newton model of the mini-batch.

Botev, Ritter & Barber (2017), after Martens & Grosse (2015), section 7: the step is
`δ = α Δ + μ δ₀` with the preconditioned direction Δ and the previous step δ₀, and (α, μ) minimise

    M(δ) = g^T δ + 1/2 δ^T (G + (τ + η) I) δ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn.numerics.sums import ordered_sum
from tf_kfgn.optimizers.joined_weights import JoinedWeights
from tf_kfgn.recording.tape import CurvatureTape

Vector = Sequence[tf.Tensor]

# Below this squared sine between Δ and δ₀ (in the metric of M) the 2 x 2 system is singular.
_PARALLEL = 1e-6


class QuadraticModel(NamedTuple):
    """M restricted to the span of two directions.

    Attributes:
        slope: `g^T d` for each direction, shape `(2,)`.
        curvature: `d^T G d'` for each pair, shape `(2, 2)`.
        damping: `d^T (τ + η) d'` for each pair, shape `(2, 2)`.
    """

    slope: tf.Tensor
    curvature: tf.Tensor
    damping: tf.Tensor

    @property
    def damped(self) -> tf.Tensor:
        """`d^T (G + (τ + η) I) d'` for each pair, shape `(2, 2)`."""
        return self.curvature + self.damping

    def curved(self, coefficients: tf.Tensor) -> tf.Tensor:
        """`1/2 δ^T (G + (τ + η) I) δ` of the step with these coefficients."""
        return 0.5 * tf.tensordot(coefficients, tf.linalg.matvec(self.damped, coefficients), 1)

    def change(self, coefficients: tf.Tensor) -> tf.Tensor:
        """M of the step with these coefficients."""
        return tf.tensordot(coefficients, self.slope, 1) + self.curved(coefficients)


def quadratic_model(
    tape: CurvatureTape,
    weights: JoinedWeights,
    slope: tf.Tensor,
    directions: tuple[Vector, Vector],
    tau: tf.Tensor,
) -> QuadraticModel:
    """Form M for two directions: two Jacobian-vector products on the recorded pass.

    Args:
        tape: The recorded pass.
        weights: The weights that the directions belong to.
        slope: The slope along each direction, shape `(2,)`.
        directions: Δ and δ₀, in joined tensors.
        tau: τ.
    """
    likelihoods = tape.likelihoods
    outputs = [likelihood.recorded for likelihood in likelihoods]
    tangents = [weights.joining.split(direction) for direction in directions]
    images = tape.jvps(tangents, outputs, weights.layout.variables)
    dampings = weights.dampings(tau)
    curved = [
        [
            likelihood.mean_hessian_product(image)
            for likelihood, image in zip(likelihoods, image_of_direction, strict=True)
        ]
        for image_of_direction in images
    ]

    def damping(i: int, j: int) -> tf.Tensor:
        products = zip(dampings, directions[i], directions[j], strict=True)
        return ordered_sum([d * tf.cast(_inner(a, b), tau.dtype) for d, a, b in products])

    def curvature(i: int, j: int) -> tf.Tensor:
        return tf.cast(dot(images[i], curved[j]), slope.dtype)

    return QuadraticModel(slope, _symmetric(curvature), _symmetric(damping))


def _symmetric(entry: Callable[[int, int], tf.Tensor]) -> tf.Tensor:
    """The symmetric matrix with these entries, shape `(2, 2)`."""
    first, cross, second = entry(0, 0), entry(0, 1), entry(1, 1)
    return tf.stack([tf.stack([first, cross]), tf.stack([cross, second])])


def slopes(gradient: Vector, directions: tuple[Vector, Vector]) -> tf.Tensor:
    """`g^T d` for each direction, shape `(2,)`."""
    return tf.stack([dot(gradient, direction) for direction in directions])


def minimise(
    model: QuadraticModel,
    step_size: tf.Tensor | None = None,
    momentum: tf.Tensor | None = None,
    most_momentum: tf.Tensor | float = math.inf,
) -> tf.Tensor:
    """The coefficients (α, μ) of the step.

    Args:
        model: M on the span of Δ and δ₀.
        step_size: A fixed α, or None for the minimiser.
        momentum: A fixed μ, or None for the minimiser.
        most_momentum: Bound of |μ|, where that is not fixed. α minimises M for the bounded μ.

    Returns:
        `(α, μ)`, shape `(2,)`. μ is 0 where δ₀ vanishes or is parallel to Δ, and α where Δ
        vanishes; a negative α, which would undo the direction, is 0 as well.
    """
    (direct, cross), (_, previous) = (tf.unstack(row) for row in tf.unstack(model.damped))
    slope, previous_slope = tf.unstack(model.slope)
    if momentum is not None:
        mu = tf.cast(momentum, slope.dtype)
    elif step_size is not None:
        mu = tf.math.divide_no_nan(-(previous_slope + step_size * cross), previous)
    else:
        determinant = direct * previous - cross * cross
        solvable = determinant > _PARALLEL * direct * previous
        safe = tf.where(solvable, determinant, tf.ones_like(determinant))
        mu = tf.where(solvable, (cross * slope - direct * previous_slope) / safe, 0.0)
    if momentum is None:
        mu = tf.clip_by_value(mu, -most_momentum, most_momentum)
    if step_size is not None:
        return tf.stack([tf.cast(step_size, slope.dtype), mu])
    # A NaN stays one: it says that the batch is of no use.
    alpha = -(slope + mu * cross) / tf.where(direct == 0, tf.ones_like(direct), direct)
    return tf.stack([tf.where(alpha < 0, tf.zeros_like(alpha), alpha), mu])


def dot(left: Vector, right: Vector) -> tf.Tensor:
    """Inner product of two lists of tensors, in the widest of their precisions."""
    products = [_inner(a, b) for a, b in zip(left, right, strict=True)]
    widest = max((product.dtype for product in products), key=lambda dtype: dtype.size)
    return ordered_sum([tf.cast(product, widest) for product in products])


def _inner(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Inner product of two tensors; of one with itself, without a tensor of squares."""
    return 2 * tf.nn.l2_loss(left) if left is right else tf.reduce_sum(left * right)
