"""curvature_error: how wrong KFAC, KFLR and KFRA are on a model, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn.analysis.approximate_blocks import (
    ApproximateBlock,
    DiagonalBlock,
    ExactBlock,
    KroneckerBlock,
)
from tf_kfgn.analysis.error_report import ALL, EXACT_BLOCKS, CurvatureErrors
from tf_kfgn.analysis.examples import Examples
from tf_kfgn.analysis.extras import require
from tf_kfgn.analysis.factors import estimator_of
from tf_kfgn.analysis.flat_weights import joined, matrix_order, matrix_variables, places_among
from tf_kfgn.analysis.gauss_newton import gauss_newton_matrix
from tf_kfgn.analysis.inspection import tape_of
from tf_kfgn.analysis.products import gradient_in_graph
from tf_kfgn.factors.estimator import uses_of_matrices
from tf_kfgn.factors.sharing import DEFAULT, Approximation
from tf_kfgn.layers.parts import diagonal_variables, recordable_layers
from tf_kfgn.numerics.checks import POSITIVE, check_number, check_seed
from tf_kfgn.recording.tape import CurvatureTape

DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def curvature_error(
    model: keras.Model,
    x: Any,
    loss: Any,
    methods: Sequence[str] = ("kfac", "kflr", "kfra"),
    *,
    y: Any = None,
    dampings: Sequence[float] = DAMPINGS,
    num_samples: int = 1,
    approximation: Approximation = DEFAULT,
    seed: int = 0,
    sample_weight: Any = None,
    spatial: str = "auto",
) -> CurvatureErrors:
    """Compare approximations with the exact Gauss-Newton matrix, for each layer and the whole.

    For each method and layer, with the exact block C and its approximation K:

    - `"frobenius_error"`: `|K - C| / |C|` in the Frobenius norm;
    - `"trace_ratio"`: `tr K / tr C`;
    - `"eigenvalue_ratio"`: the largest eigenvalue of K over that of C;
    - `"cosine"`: for each damping τ, the cosine between the layer's part of the update direction
      `-(K + τ)⁻¹ g`, damped as the optimizers damp it, and its part of the exact full step
      `-(C + τ I)⁻¹ g`, found by conjugate gradients.

    Under `"all layers"` K is the block-diagonal matrix of all blocks, and C the whole matrix with
    the blocks between layers, which no method has: the method `"blocks"`, the exact blocks, says
    how much of an error is due to them alone.

    Weights without a matrix have the diagonal that the method's optimizer would estimate. The whole
    matrix must fit in memory, so this is for models with up to some thousands of weights.

    Args:
        model: A built Keras model; it runs in inference mode and is unchanged afterwards.
        x: Inputs, one batch.
        loss: What `compile(loss=...)` takes.
        methods: Any of `"kfac"`, `"kflr"`, `"kfra"` and `"blocks"`.
        y: Targets, from which the gradient g comes. Without them g is that of targets drawn from
            the model's own predictions.
        dampings: The values of τ.
        num_samples: Sampled cotangents for each example; only KFAC looks at it.
        approximation: How shared weights enter, see `kronecker_factors`.
        seed: Of KFAC's samples, and of the targets where there are none.
        sample_weight: Weights of the examples as `fit` takes them, or None. They scale the
            curvature as they scale the loss.
        spatial: What KFRA carries of tensors with positions, see `KFRA`.

    Returns:
        `{method: {layer: numbers}}`, a dictionary that prints as a table and has a `figure`.

    Raises:
        ImportError: If SciPy is not installed.
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, the loss has no known curvature, an argument is not
            one of the above, KFRA finds a layer without a rule, or the matrix would not fit in
            memory.
    """
    methods = [methods] if isinstance(methods, str) else list(methods)
    if not methods or not dampings:
        raise ValueError("`methods` and `dampings` must not be empty.")
    for damping in dampings:
        check_number("dampings", damping, POSITIVE, optional=False)
    check_seed(seed)
    estimators = {
        method: estimator_of(method, approximation, num_samples, spatial)
        for method in methods
        if method != EXACT_BLOCKS
    }
    linalg = require("scipy.sparse.linalg", "curvature_error")
    batch = Examples.of(x, y, sample_weight)
    whole = gauss_newton_matrix(model, x, loss, y, sample_weight=sample_weight)
    whole = np.asarray(whole, np.float64)
    seeds = tf.constant([seed, 0], tf.int64)
    with tape_of(model, batch, loss) as tape:
        variables = model.trainable_variables
        places, others = _places(tape, model, variables)
        flat_others = [variable for several in others.values() for variable in several]
        blocks: dict[str, dict[str, ApproximateBlock]] = {}
        for method in methods:
            if method == EXACT_BLOCKS:
                blocks[method] = {n: ExactBlock(whole[np.ix_(p, p)]) for n, p in places.items()}
                continue
            estimate = estimators[method].estimate(tape, seeds, flat_others)
            found: dict[str, ApproximateBlock] = {
                matrix.name: KroneckerBlock(*pair) for matrix, pair in estimate.factors.items()
            }
            waiting = iter(estimate.diagonals)
            for name, several in others.items():
                found[name] = DiagonalBlock(
                    joined([next(waiting) for _ in several], tf.float64).numpy()
                )
            blocks[method] = found
        gradient = _gradient(tape, model, batch, loss, seeds)
    steps = {}
    for damping in dampings:
        damped = whole + damping * np.eye(len(whole))
        steps[damping], info = linalg.cg(
            damped, -gradient, rtol=1e-10, maxiter=20 * len(whole) + 100
        )
        if info:
            raise ValueError(
                f"Conjugate gradients did not converge with damping {damping:g}. Leave the "
                "smallest of `dampings` out, or build the model in float64."
            )
    exact = _Exact(whole, gradient, steps)
    return CurvatureErrors(
        {method: _errors(blocks[method], places, exact) for method in methods}, tuple(dampings)
    )


class _Exact(NamedTuple):
    """What approximations are compared with."""

    matrix: np.ndarray
    gradient: np.ndarray
    steps: dict[float, np.ndarray]


def _errors(
    blocks: dict[str, ApproximateBlock], places: dict[str, np.ndarray], exact: _Exact
) -> dict[str, dict[str, Any]]:
    """The numbers of a method for each layer, and for all."""
    steps = {damping: np.zeros_like(exact.gradient) for damping in exact.steps}
    norm = float(np.linalg.norm(exact.matrix) ** 2)
    outside, trace, rows, tops = norm, 0.0, {}, []
    for name, here in places.items():
        block, C = blocks[name], exact.matrix[np.ix_(here, here)]
        K = block.dense()
        for damping, step in steps.items():
            step[here] = -block.solve(exact.gradient[here], damping)
        outside += float(np.linalg.norm(K - C) ** 2 - np.linalg.norm(C) ** 2)
        trace += float(np.trace(K))
        tops.append(block.top_eigenvalue())
        rows[name] = {
            "frobenius_error": _quotient(np.linalg.norm(K - C), np.linalg.norm(C)),
            "trace_ratio": _quotient(np.trace(K), np.trace(C)),
            "eigenvalue_ratio": _quotient(tops[-1], np.linalg.eigvalsh(C)[-1]),
            "cosine": {
                damping: _cosine(steps[damping][here], step[here])
                for damping, step in exact.steps.items()
            },
        }
    rows[ALL] = {
        "frobenius_error": _quotient(np.sqrt(max(outside, 0.0)), np.sqrt(norm)),
        "trace_ratio": _quotient(trace, np.trace(exact.matrix)),
        "eigenvalue_ratio": _quotient(max(tops), np.linalg.eigvalsh(exact.matrix)[-1]),
        "cosine": {d: _cosine(steps[d], step) for d, step in exact.steps.items()},
    }
    return rows


def _places(
    tape: CurvatureTape, model: keras.Model, variables: Sequence[Any]
) -> tuple[dict[str, np.ndarray], dict[str, list[Any]]]:
    """Where the weights of each block are, and the variables of those without a matrix."""
    places = {}
    for matrix, operations in uses_of_matrices(tape).items():
        of_matrix = places_among(matrix_variables(operations[0]), variables)
        places[matrix.name] = of_matrix[matrix_order(operations[0])]
    others = {}
    for layer in [model, *recordable_layers(model)]:
        several = diagonal_variables(layer)
        if several:
            others[layer.name] = several
            places[layer.name] = places_among(several, variables)
    return places, others


def _gradient(
    tape: CurvatureTape, model: keras.Model, batch: Examples, loss: Any, seeds: tf.Tensor
) -> np.ndarray:
    """The gradient over all weights: of the targets, or of targets that the model would draw."""
    if batch.y is not None:
        return joined(gradient_in_graph(model, batch, loss, False), tf.float64).numpy()
    likelihoods = tape.likelihoods
    cotangents = [
        likelihood.sample(seeds + tf.constant([0, index + 1], tf.int64)) / likelihood.batch_size
        for index, likelihood in enumerate(likelihoods)
    ]
    recorded = [likelihood.recorded for likelihood in likelihoods]
    return joined(tape.vjp(cotangents, recorded, model.trainable_variables), tf.float64).numpy()


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return _quotient(one @ other, np.linalg.norm(one) * np.linalg.norm(other))


def _quotient(numerator: Any, denominator: Any) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(numerator, denominator))
