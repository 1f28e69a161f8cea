"""Step size and momentum from the exact Gauss-Newton model of the mini-batch.

Botev, Ritter & Barber (2017), after Martens & Grosse (2015), section 7: the step is
`δ = α Δ + μ δ₀` with the preconditioned direction Δ and the previous step δ₀, and (α, μ) minimise

    M(δ) = g^T δ + 1/2 δ^T (G + (τ + η) I) δ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn.recording.tape import CurvatureTape

Vector = Sequence[tf.Tensor]

# Below this squared sine between Δ and δ₀ (in the metric of M) the 2 x 2 system is singular.
_PARALLEL = 1e-6


class QuadraticModel(NamedTuple):
    """M restricted to the span of two directions.

    Attributes:
        slope: `g^T d` for each direction, shape `(2,)`.
        curvature: `d^T (G + (τ + η) I) d'` for each pair, shape `(2, 2)`.
    """

    slope: tf.Tensor
    curvature: tf.Tensor

    def change(self, coefficients: tf.Tensor) -> tf.Tensor:
        """M of the step that combines the directions with these coefficients."""
        curved = tf.linalg.matvec(self.curvature, coefficients)
        return tf.tensordot(coefficients, self.slope + 0.5 * curved, 1)


def quadratic_model(
    tape: CurvatureTape,
    variables: Sequence[Any],
    gradient: Vector,
    directions: tuple[Vector, Vector],
    dampings: Vector,
) -> QuadraticModel:
    """Form M for two directions: two Jacobian-vector products on the recorded pass.

    Args:
        tape: The recorded pass.
        variables: The variables that gradient and directions belong to.
        gradient: g, of the whole objective.
        directions: Δ and δ₀.
        dampings: τ + η for each variable.
    """
    likelihoods = tape.likelihoods
    outputs = [likelihood.recorded for likelihood in likelihoods]
    images = tape.jvps(directions, outputs, variables)
    curved = [
        [
            likelihood.mean_hessian_product(image)
            for likelihood, image in zip(likelihoods, image_of_direction, strict=True)
        ]
        for image_of_direction in images
    ]

    def entry(i: int, j: int) -> tf.Tensor:
        damped = tf.add_n(
            [
                tau * tf.cast(tf.reduce_sum(a * b), tau.dtype)
                for tau, a, b in zip(dampings, directions[i], directions[j], strict=True)
            ]
        )
        return tf.cast(dot(images[i], curved[j]), damped.dtype) + damped

    diagonal, cross, previous = entry(0, 0), entry(0, 1), entry(1, 1)
    return QuadraticModel(
        slope=slopes(gradient, directions),
        curvature=tf.stack([tf.stack([diagonal, cross]), tf.stack([cross, previous])]),
    )


def slopes(gradient: Vector, directions: tuple[Vector, Vector]) -> tf.Tensor:
    """`g^T d` for each direction, shape `(2,)`."""
    return tf.stack([dot(gradient, direction) for direction in directions])


def minimise(model: QuadraticModel, step_size: float | None, momentum: float | None) -> tf.Tensor:
    """The coefficients (α, μ) of the step.

    Args:
        model: M on the span of Δ and δ₀.
        step_size: A fixed α, or None for the minimiser.
        momentum: A fixed μ, or None for the minimiser.

    Returns:
        `(α, μ)`, shape `(2,)`. μ is 0 where δ₀ vanishes or is parallel to Δ.
    """
    (direct, cross), (_, previous) = (tf.unstack(row) for row in tf.unstack(model.curvature))
    slope, previous_slope = tf.unstack(model.slope)
    if step_size is None and momentum is None:
        determinant = direct * previous - cross * cross
        solvable = determinant > _PARALLEL * direct * previous
        safe = tf.where(solvable, determinant, tf.ones_like(determinant))
        mu = tf.where(solvable, (cross * slope - direct * previous_slope) / safe, 0.0)
        alpha = -(slope + mu * cross) / direct
    elif step_size is None:
        mu = tf.constant(momentum, slope.dtype)
        alpha = -(slope + mu * cross) / direct
    elif momentum is None:
        alpha = tf.constant(step_size, slope.dtype)
        mu = tf.math.divide_no_nan(-(previous_slope + alpha * cross), previous)
    else:
        alpha, mu = (tf.constant(fixed, slope.dtype) for fixed in (step_size, momentum))
    return tf.stack([alpha, mu])


def dot(left: Vector, right: Vector) -> tf.Tensor:
    """Inner product of two lists of tensors, in the widest of their precisions."""
    products = [tf.reduce_sum(a * b) for a, b in zip(left, right, strict=True)]
    widest = max((product.dtype for product in products), key=lambda dtype: dtype.size)
    return tf.add_n([tf.cast(product, widest) for product in products])
