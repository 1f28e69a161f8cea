"""Weights of examples mean in the analysis what they mean in training."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import flat, gauss_newton_of, hessian_of, wrong
from problems import MSE, mlp, random_problem

import tf_kfgn
from tf_kfgn import analysis
from tf_kfgn.analysis.error_report import ALL
from tf_kfgn.analysis.examples import Examples

WEIGHTS = np.array([0.0, 3.0, 1.0, 0.2, 2.0, 0.5])
PROBLEM = random_problem("mlp", lambda: mlp([3, 2, 2], "tanh"), batch=6, sample_weight=WEIGHTS)
X, Y = PROBLEM.x, PROBLEM.y
MODEL = PROBLEM.model()
SIZES = [8, 6]  # weights of the layers
VECTOR = np.random.default_rng(0).normal(size=sum(SIZES))
VECTORS = [
    piece.reshape(v.shape)
    for piece, v in zip(np.split(VECTOR, [6, 8, 12]), MODEL.trainable_variables, strict=True)
]
PLANE = VECTORS, [None, None, *VECTORS[2:]]
hessian = functools.cache(lambda: hessian_of(PROBLEM))
gauss_newton = functools.cache(lambda: gauss_newton_of(PROBLEM))


def blocks_of(matrix):
    return np.concatenate([np.ravel(matrix[:8, :8]), np.ravel(matrix[8:, 8:])])


def batches(weight):
    data = (X, Y) if weight is None else (X, Y, weight)
    return tf.data.Dataset.from_tensor_slices(data).batch(4)  # of 4 and 2 examples


def surface(weight):
    found = analysis.error_surface(MODEL, X, Y, MSE, PLANE, points=3, sample_weight=weight)
    return found.values[1:, 2]


def moved_objectives():
    """E at the origin + V, and at the origin + U + V."""
    moved = PROBLEM.model()
    values = []
    for first in (0, 1):
        steps = [first * u + (0 if v is None else v) for u, v in zip(*PLANE, strict=True)]
        weights = [w + d for w, d in zip(MODEL.get_weights(), steps, strict=True)]
        moved.set_weights(weights)
        values.append(float(MSE(Y, moved(X), sample_weight=WEIGHTS)))
    return np.array(values)


def error(weight):
    """What exact blocks leave out, and the cosine of their step with that of the matrix."""
    found = analysis.curvature_error(
        MODEL, X, MSE, ["blocks"], y=Y, dampings=[0.1], sample_weight=weight
    )["blocks"][ALL]
    return np.array([found["frobenius_error"], 1 - found["cosine"][0.1]])


def exact_error():
    C = gauss_newton()
    K = C.copy()
    K[:8, 8:] = K[8:, :8] = 0
    with tf.GradientTape() as tape:
        value = MSE(Y, MODEL(X), sample_weight=WEIGHTS)
    g = flat(tape.gradient(value, [v.value for v in MODEL.trainable_variables]))
    a, b = (np.linalg.solve(matrix + 0.1 * np.eye(len(C)), -g) for matrix in (K, C))
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return np.array([np.linalg.norm(K - C) / np.linalg.norm(C), 1 - cosine])


def exact_output_hessians():
    """Of a squared error, mean over two outputs."""
    return np.stack([weight * np.eye(2) for weight in WEIGHTS])


# What a function finds with some weights, and what brute force finds with `WEIGHTS`.
FUNCTIONS = {
    "hessian_blocks": (
        lambda w: flat(tf_kfgn.hessian_blocks(MODEL, X, Y, MSE, sample_weight=w).values()),
        lambda: blocks_of(hessian()),
    ),
    "preactivation_hessians": (
        lambda w: list(analysis.preactivation_hessians(MODEL, X, Y, MSE, sample_weight=w).values())[
            -1
        ],
        exact_output_hessians,
    ),
    "hessian_vector_product": (
        lambda w: flat(analysis.hessian_vector_product(MODEL, X, Y, MSE, VECTORS, sample_weight=w)),
        lambda: hessian() @ VECTOR,
    ),
    "hessian_operator": (
        lambda w: analysis.hessian_operator(MODEL, X, Y, MSE, sample_weight=w) @ VECTOR,
        lambda: hessian() @ VECTOR,
    ),
    "gauss_newton_matrix": (
        lambda w: analysis.gauss_newton_matrix(MODEL, X, MSE, sample_weight=w),
        gauss_newton,
    ),
    "gauss_newton_blocks": (
        lambda w: flat(tf_kfgn.gauss_newton_blocks(MODEL, X, MSE, sample_weight=w).values()),
        lambda: blocks_of(gauss_newton()),
    ),
    "gauss_newton_vector_product": (
        lambda w: flat(
            tf_kfgn.gauss_newton_vector_product(MODEL, X, MSE, VECTORS, sample_weight=w)
        ),
        lambda: gauss_newton() @ VECTOR,
    ),
    "gauss_newton_operator": (
        lambda w: analysis.gauss_newton_operator(MODEL, X, MSE, sample_weight=w) @ VECTOR,
        lambda: gauss_newton() @ VECTOR,
    ),
    "kronecker_factors": (
        lambda w: (
            list(tf_kfgn.kronecker_factors(MODEL, X, MSE, "kflr", sample_weight=w).values())[-1].G
        ),
        lambda: exact_output_hessians().mean(0),
    ),
    "curvature_error": (error, exact_error),
    "error_surface": (surface, moved_objectives),
}
OVER_DATA = {
    "hessian_operator": (
        lambda w: analysis.hessian_operator(MODEL, batches(w), None, MSE) @ VECTOR,
        lambda: hessian() @ VECTOR,
    ),
    "gauss_newton_operator": (
        lambda w: analysis.gauss_newton_operator(MODEL, batches(w), MSE) @ VECTOR,
        lambda: gauss_newton() @ VECTOR,
    ),
}


@pytest.mark.parametrize(
    ("found", "exact"),
    [*FUNCTIONS.values(), *OVER_DATA.values()],
    ids=[*FUNCTIONS, *(f"{name} over data" for name in OVER_DATA)],
)
def test_weights_scale_what_they_scale_in_the_loss(found, exact):
    expected = exact()
    np.testing.assert_allclose(found(WEIGHTS), expected, rtol=1e-7, atol=1e-12)
    assert wrong(found(None), expected)


@pytest.mark.parametrize("found", [both[0] for both in FUNCTIONS.values()], ids=FUNCTIONS)
def test_there_must_be_a_weight_for_each_example(found):
    for weights in (WEIGHTS[:-1], 2.0):
        with pytest.raises(ValueError, match=r"`sample_weight` must be an array.* 6 examples"):
            found(weights)


def test_weights_of_a_data_set_come_with_it():
    with pytest.raises(ValueError, match=r"`sample_weight` must be None where `x` is a tf\.data"):
        analysis.gauss_newton_operator(MODEL, batches(None), MSE, sample_weight=WEIGHTS)


def test_outputs_have_weights_of_their_own():
    """`{"a": ..., "b": ...}`, as the losses."""
    inputs = keras.Input((3,), dtype="float64")
    heads = {n: keras.layers.Dense(1, name=n, dtype="float64") for n in "ab"}
    model = keras.Model(inputs, {n: head(inputs) for n, head in heads.items()})
    weights = {"a": WEIGHTS, "b": WEIGHTS[::-1]}
    targets, losses = {n: Y[:, :1] for n in "ab"}, dict.fromkeys("ab", MSE)
    blocks = tf_kfgn.gauss_newton_blocks(model, X, losses, targets, sample_weight=weights)
    rows = np.c_[X, np.ones(6)]
    for name, weight in weights.items():
        expected = 2 * rows.T @ (weight[:, None] * rows) / 6
        np.testing.assert_allclose(blocks[name], expected, rtol=1e-9)


def test_the_first_input_may_be_missing():
    batch = Examples.of((None, X), Y, WEIGHTS)
    assert batch.size == len(X)
    with pytest.raises(ValueError, match=r"each of the 6 examples"):
        Examples.of((None, X), Y, WEIGHTS[:4])
