"""The curvature of a loss against the Hessian of the very number that Keras reports."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, loss_hessian, wrong

from tf_kfgn.losses import (
    Bernoulli,
    Categorical,
    General,
    Poisson,
    Separable,
    SquaredError,
    resolve_loss,
)

losses = keras.losses
N, D, T = 4, 3, 2
REDUCTIONS = ["sum_over_batch_size", "sum", "mean_with_sample_weight"]


def bits(generator, shape):
    return generator.integers(2, size=shape).astype(float)


def dense_classes(generator, shape):
    return generator.dirichlet(np.ones(D), size=shape[:-1])


def classes(generator, shape):
    return generator.integers(D, size=shape[:-1])


class Wins(losses.Loss):
    """A convex loss of a row that Keras does not have."""

    def call(self, y_true, y_pred):
        ahead = y_pred - tf.reduce_sum(y_true * y_pred, axis=-1, keepdims=True)
        return tf.reduce_logsumexp(2 * ahead, axis=-1) + 0.1 * tf.reduce_sum(y_pred**4, axis=-1)


# Name: likelihood, targets, Keras loss, options, activation that the loss takes
KINDS = {
    "squared error": (SquaredError, bits, losses.MeanSquaredError, {}, None),
    "bernoulli logits": (Bernoulli, bits, losses.BinaryCrossentropy, {"from_logits": True}, None),
    "smoothed bernoulli logits": (
        Bernoulli,
        bits,
        losses.BinaryCrossentropy,
        {"from_logits": True, "label_smoothing": 0.2},
        None,
    ),
    "sigmoid": (Bernoulli, bits, losses.BinaryCrossentropy, {"label_smoothing": 0.1}, "sigmoid"),
    "categorical logits": (
        Categorical,
        dense_classes,
        losses.CategoricalCrossentropy,
        {"from_logits": True, "label_smoothing": 0.1},
        None,
    ),
    "softmax": (Categorical, dense_classes, losses.CategoricalCrossentropy, {}, "softmax"),
    "sparse logits": (
        Categorical,
        classes,
        losses.SparseCategoricalCrossentropy,
        {"from_logits": True},
        None,
    ),
    "huber": (Separable, bits, losses.Huber, {"delta": 1.5}, None),
    "log-cosh": (Separable, bits, losses.LogCosh, {}, None),
    "own loss": (General, dense_classes, Wins, {}, None),
    "sparse softmax": (Categorical, classes, losses.SparseCategoricalCrossentropy, {}, "softmax"),
}
SHAPES = {"rank 2": (N, D), "rank 3": (N, T, D)}


def resolved(name, shape, reduction="sum_over_batch_size", weighted=True):
    """A likelihood, and the Hessian of the loss times N, shape `(N, outputs, N, outputs)`."""
    kind, targets, loss, options, activation = KINDS[name]
    loss = loss(reduction=reduction, dtype="float64", **options)
    head = keras.activations.get(activation) if activation else tf.identity
    generator = np.random.default_rng(0)
    outputs, y = generator.normal(size=shape), targets(generator, shape)
    sample_weight = generator.uniform(0.5, 2.0, size=shape[:-1]) if weighted else None
    likelihood = resolve_loss(loss, y, head(tf.constant(outputs)), sample_weight)[0].likelihood
    assert isinstance(likelihood, kind)
    np.testing.assert_array_equal(likelihood.outputs, outputs)  # logits, if there is a head
    hessian = loss_hessian(loss, y, outputs, sample_weight, head) * N
    width = outputs[0].size
    return likelihood, hessian.reshape(N, width, N, width)


CASES = list(itertools.product(KINDS, SHAPES, REDUCTIONS, [False, True]))


@pytest.fixture(
    scope="module",
    params=CASES,
    ids=["-".join([k, s, r, "weighted" if w else "plain"]) for k, s, r, w in CASES],
)
def case(request):
    """What `resolved` returns."""
    name, shape, reduction, weighted = request.param
    return resolved(name, SHAPES[shape], reduction, weighted)


def per_example(hessian):
    return np.stack([hessian[n, :, n] for n in range(N)])


def outer(columns):
    return sum(np.einsum("ni,nj->nij", column, column) for column in columns)


def test_hessian_product_is_that_of_the_reported_loss(case):
    likelihood, hessian = case
    vector = np.random.default_rng(1).normal(size=likelihood.outputs.shape)
    expected = np.einsum("nimj,mj->ni", hessian, vector.reshape(N, -1))
    product = likelihood.hessian_product(tf.constant(vector)).numpy().reshape(N, -1)
    allclose(product, expected)


def test_columns_are_a_root_of_each_hessian(case):
    likelihood, hessian = case
    columns = [
        likelihood.column(tf.constant(k)).numpy().reshape(N, -1)
        for k in range(likelihood.num_columns)
    ]
    allclose(outer(columns), per_example(hessian))
    assert wrong(outer(columns[1:]), per_example(hessian))


def test_means_are_those_of_the_hessians(case):
    likelihood, hessian = case
    mean = per_example(hessian).mean(axis=0)
    allclose(likelihood.mean_hessian(), mean)
    allclose(likelihood.mean_diagonal(), np.diag(mean).mean())


@pytest.mark.parametrize("name", KINDS)
def test_samples_have_the_hessian_as_their_second_moment(name):
    likelihood, hessian = resolved(name, SHAPES["rank 3"])

    @tf.function
    def draw(number):
        return likelihood.sample(tf.stack([tf.constant(7, tf.int64), number]))

    draws = np.stack([draw(tf.constant(i, tf.int64)).numpy().reshape(N, -1) for i in range(2000)])
    products = np.einsum("sni,snj->snij", draws, draws)
    scale = np.abs(per_example(hessian)).max()
    error = np.maximum(products.std(axis=0) / np.sqrt(len(draws)), 1e-9 * scale)

    def deviations(factor):
        return np.abs(factor * products.mean(axis=0) - per_example(hessian)) / error

    # A mean square of 1 is expected; the largest of 144 entries may be beyond 3 errors.
    assert np.sqrt(np.mean(deviations(1) ** 2)) < 1.5
    assert deviations(1).max() < 4.5
    assert np.sqrt(np.mean(deviations(1.5) ** 2)) > 3


def test_samples_are_gradients_for_targets_of_the_model():
    p = 1 / (1 + np.exp(-np.array([[1.0, -2.0]])))
    logits = tf.constant(np.log(p / (1 - p)))
    bernoulli = Bernoulli(logits, tf.ones(1))
    categorical = Categorical(logits, tf.ones(1))
    softmax = tf.nn.softmax(logits).numpy()
    for i in range(20):
        seed = tf.constant([i, 0], tf.int64)
        targets = p - np.sqrt(2) * bernoulli.sample(seed).numpy()
        allclose(np.abs(targets - 0.5), np.full((1, 2), 0.5))  # each is 0 or 1
        target = softmax - categorical.sample(seed).numpy()
        allclose(np.sort(target), [[0.0, 1.0]])


@pytest.mark.parametrize("kind", [SquaredError, Bernoulli, Categorical])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_samples_of_narrow_outputs_are_drawn_in_float32(kind, dtype):
    outputs = np.random.default_rng(0).normal(size=(64, D))
    seed = tf.constant([1, 2], tf.int64)
    narrow, wide = (
        kind(tf.cast(outputs, kind_of), tf.ones(64)).sample(seed) for kind_of in (dtype, "float32")
    )
    assert narrow.dtype == tf.float32
    same = np.isclose(tf.cast(narrow, tf.float32), wide, atol=0.05).all(axis=1)
    assert same.mean() > 0.9  # another class or bit now and then, where rounding decides


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize(
    "name", ["squared error", "sigmoid", "sparse softmax", "log-cosh", "own loss"]
)
def test_curvature_is_the_same_in_a_graph(name, mode):
    _, targets, loss, options, activation = KINDS[name]
    generator = np.random.default_rng(0)
    outputs, y = tf.constant(generator.normal(size=(N, D))), targets(generator, (N, D))
    head = keras.activations.get(activation) if activation else tf.identity

    def curvature():
        made = loss(dtype="float64", **options)
        likelihood = resolve_loss(made, y, head(outputs), np.arange(1.0, N + 1))[0].likelihood
        seed = tf.constant([1, 2], tf.int64)
        return likelihood.outputs, likelihood.mean_hessian(), likelihood.sample(seed)

    expected = curvature()
    actual = tf.function(curvature, jit_compile=mode == "xla")()
    rtol = 1e-7 if mode == "xla" else 1e-9  # XLA's eigendecomposition is the less precise one
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-12)


def test_rates_from_an_exponential_are_taken_at_their_logarithms():
    generator = np.random.default_rng(0)
    outputs, counts = generator.normal(size=(N, D)), generator.poisson(2.0, size=(N, D))
    loss = losses.Poisson(dtype="float64")
    likelihood = resolve_loss(loss, counts, tf.constant(outputs), None)[0].likelihood
    assert isinstance(likelihood, Separable)  # no head: the outputs are rates

    @tf.function
    def mean_hessian():
        found = resolve_loss(loss, None, tf.exp(tf.constant(outputs)), None)[0].likelihood
        assert isinstance(found, Poisson)
        return found.mean_hessian()

    hessian = per_example(loss_hessian(loss, counts, outputs, head=tf.exp).reshape(N, D, N, D) * N)
    # Keras adds 1e-7 to the rates.
    np.testing.assert_allclose(mean_hessian(), hessian.mean(axis=0), rtol=1e-5, atol=1e-9)


def test_rates_without_an_exponential_depend_on_the_counts():
    generator = np.random.default_rng(0)
    rates = generator.uniform(0.5, 2.0, size=(N, D))
    counts = generator.poisson(2.0, size=(N, D)).astype(float)
    loss = losses.Poisson(dtype="float64")
    found, other = (
        resolve_loss(loss, y, tf.constant(rates), None)[0].likelihood.mean_hessian()
        for y in (counts, counts + 1)
    )
    hessian = per_example(loss_hessian(loss, counts, rates).reshape(N, D, N, D) * N)
    allclose(found, hessian.mean(axis=0))
    assert wrong(found, other)
    with pytest.raises(ValueError, match="depends on the targets"):
        resolve_loss(loss, None, tf.constant(rates), None)


@pytest.mark.parametrize("separable", [True, False])
def test_negative_curvature_is_clipped(separable):
    class Wave(losses.Loss):
        def call(self, y_true, y_pred):
            return tf.reduce_sum(tf.sin(y_pred - y_true) * y_pred[..., :1], axis=-1)

    generator = np.random.default_rng(0)
    outputs, y = generator.normal(size=(N, D)), generator.normal(size=(N, D))
    if separable:
        loss = losses.MeanSquaredLogarithmicError(dtype="float64")
        outputs, y = 3 + np.abs(outputs) * 8, np.abs(y)
    else:
        loss = Wave(dtype="float64")
    likelihood = resolve_loss(loss, y, tf.constant(outputs), None)[0].likelihood
    assert isinstance(likelihood, Separable if separable else General)
    hessian = per_example(loss_hessian(loss, y, outputs).reshape(N, D, N, D) * N)
    values, vectors = np.linalg.eigh(hessian)
    assert values.min() < -1e-3
    clipped = np.einsum("nij,nj,nkj->nik", vectors, np.maximum(values, 0), vectors)
    allclose(likelihood.mean_hessian(), clipped.mean(axis=0))
    assert wrong(likelihood.mean_hessian(), hessian.mean(axis=0))


def test_orthogonal_directions_of_the_root_add_up(case):
    likelihood, hessian = case
    size = likelihood.num_columns
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(size, size)))
    shape = (1, *likelihood.outputs.shape[1:])
    columns = [
        likelihood.root_product(tf.reshape(tf.constant(direction), shape)).numpy().reshape(N, -1)
        for direction in rotation.T
    ]
    allclose(outer(columns), per_example(hessian))
