"""Losses that state their curvature as a diagonal plus low rank, against dense matrices."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, clipped_by_diagonal, loss_hessian, wrong

from tf_kfgn.losses import DiagonalPlusLowRank, GaussNewtonLoss, OutputCurvature, resolve_loss

N, P, D, R = 3, 2, 5, 2


class Quadratic(GaussNewtonLoss):
    """Half of `e^T (d + U U^T - V V^T) e` with the error e of a row."""

    def __init__(self, subtracted: float, **kwargs):
        super().__init__(dtype="float64", **kwargs)
        generator = np.random.default_rng(0)
        self.d = tf.constant(generator.uniform(0.5, 2, D))
        self.u = tf.constant(generator.normal(size=(D, R)))
        self.v = tf.constant(subtracted * generator.normal(size=(D, R)))

    def call(self, y_true, y_pred):
        e = y_pred - y_true
        parts = [tf.square(e) * self.d, (e @ self.u) ** 2, -((e @ self.v) ** 2)]
        return sum(tf.reduce_sum(part, axis=-1) for part in parts) / 2

    def output_curvature(self, y_true, y_pred):
        def each(x):
            return tf.zeros((*y_pred.shape, *x.shape[1:]), x.dtype) + x

        return OutputCurvature(each(self.d), each(self.u), each(self.v))


class Softmax(GaussNewtonLoss):
    def call(self, y_true, y_pred):
        return keras.ops.logsumexp(y_pred, -1) - keras.ops.sum(y_true * y_pred, -1)

    def output_curvature(self, y_true, y_pred):
        p = keras.ops.softmax(y_pred)
        return OutputCurvature(p, subtracted=p[..., None])


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(1)
    z, y = generator.normal(size=(2, N, P, D))
    return tf.constant(z), y, generator.uniform(0.5, 2, size=(N, P))


@pytest.mark.parametrize(("subtracted", "convex"), [(0.1, True), (1.5, False)])
def test_what_is_convex_stays_and_negative_curvature_is_clipped(rows, subtracted, convex):
    z, y, weight = rows
    loss = Quadratic(subtracted)
    likelihood = resolve_loss(loss, y, z, weight)[0].likelihood
    assert isinstance(likelihood, DiagonalPlusLowRank)
    exact = loss_hessian(loss, y, z, weight).reshape(N, P * D, N, P * D).sum(axis=2)
    columns, signs = np.hstack([loss.u, loss.v]), np.repeat([1, -1], R)
    one = clipped_by_diagonal(loss.d.numpy(), columns, signs)
    assert np.linalg.eigvalsh(one).min() > (0.1 if convex else -1e-12)
    expected = np.stack([np.kron(np.diag(w), one) / P for w in weight])
    mean = expected.mean(axis=0)
    allclose(likelihood.mean_hessian(), mean)
    assert wrong(likelihood.mean_hessian(), exact.sum(axis=0)) != convex
    product = likelihood.hessian_product(z).numpy().reshape(N, -1)
    allclose(product, np.einsum("nij,nj->ni", expected, z.numpy().reshape(N, -1)))
    root = [likelihood.column(tf.constant(k)).numpy().reshape(N, -1) for k in range(P * D)]
    allclose(np.einsum("kni,knj->nij", root, root), expected)


def test_a_known_loss_that_states_its_curvature_has_that_of_the_package():
    generator = np.random.default_rng(2)
    z, y = tf.constant(3 * generator.normal(size=(N, D))), np.eye(D)[:N]
    stated = resolve_loss(Softmax(dtype="float64"), y, z, None)[0].likelihood
    known = keras.losses.CategoricalCrossentropy(from_logits=True, dtype="float64")
    expected = resolve_loss(known, y, z, None)[0].likelihood
    np.testing.assert_allclose(stated.mean_hessian(), expected.mean_hessian(), atol=1e-8)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_stated_curvature_is_the_same_in_a_graph(rows, jit_compile):
    z, y, _ = rows

    def curvature():
        likelihood = resolve_loss(Quadratic(1.5), y, z, None)[0].likelihood
        seed = tf.constant([1, 2], tf.int64)
        return likelihood.mean_hessian(), likelihood.sample(seed)

    for one, other in zip(
        tf.function(curvature, jit_compile=jit_compile)(), curvature(), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-7)


def test_samples_have_the_clipped_curvature_as_their_second_moment(rows):
    z, y, _ = rows
    likelihood = resolve_loss(Quadratic(1.5), y, z, None)[0].likelihood
    draw = tf.function(likelihood.sample)
    draws = np.stack([draw(tf.constant([7, i], tf.int64)).numpy() for i in range(1000)])
    moment = np.einsum("snpi,snpj->ij", draws, draws) / draws[..., 0].size * P
    expected = sum(np.split(likelihood.mean_hessian().numpy(), P)[0][:, :D] for _ in range(1)) * P
    assert np.abs(moment - expected).max() < 0.1 * np.abs(expected).max()


def test_rows_without_a_diagonal_and_rows_that_are_not_finite(rows):
    class Bare(Quadratic):
        def output_curvature(self, y_true, y_pred):
            d, u, _ = super().output_curvature(y_true, y_pred)
            return OutputCurvature(0 * d, u)

    z, y, _ = rows
    loss = Bare(0.0)
    likelihood = resolve_loss(loss, y, z, None)[0].likelihood
    block = likelihood.mean_blocks()[0] * P
    np.testing.assert_allclose(block, loss.u @ tf.transpose(loss.u), atol=1e-6)

    class Undefined(Quadratic):
        def output_curvature(self, y_true, y_pred):
            d, *others = super().output_curvature(y_true, y_pred)
            return OutputCurvature(d * y_pred / y_pred, *others)

    broken = z.numpy()
    broken[1, 0, 0] = 0.0
    product = resolve_loss(Undefined(1.5), y, tf.constant(broken), None)[0].likelihood
    product = product.hessian_product(z).numpy()
    assert np.isnan(product[1, 0]).all()
    assert np.isfinite(np.delete(product.reshape(N * P, D), P, axis=0)).all()


def test_a_curvature_of_other_shapes_is_refused(rows):
    class Wrong(Quadratic):
        def output_curvature(self, y_true, y_pred):
            return OutputCurvature(self.d, self.u)

    z, y, _ = rows
    with pytest.raises(ValueError, match=r"Wrong.*\(5,\), \(5, 2\).*must have the shape of the"):
        resolve_loss(Wrong(0.0), y, z, None)


def test_targets_are_asked_for(rows):
    with pytest.raises(ValueError, match="Pass y="):
        resolve_loss(Quadratic(0.0), None, rows[0], None)
