"""The curvature of a loss against the Hessian of the very number that Keras reports."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import loss_hessian

from tf_kfgn.losses import resolve_loss

losses = keras.losses
N, D, T = 4, 3, 2

generator = np.random.default_rng(0)
OUTPUTS = generator.normal(size=(N, D))
ROWS = generator.normal(size=(N, T, D))
DENSE = generator.dirichlet(np.ones(D), size=N)
CLASSES = generator.integers(D, size=N)
BITS = generator.integers(2, size=(N, D)).astype(float)
WEIGHTS = generator.uniform(0.5, 2.0, size=N)


def double(cls, **kwargs):
    return cls(dtype="float64", **kwargs)


CASES = {
    "squared error": (double(losses.MeanSquaredError), BITS, OUTPUTS, None),
    "squared error, summed": (double(losses.MeanSquaredError, reduction="sum"), BITS, OUTPUTS, None),
    "squared error, weighted": (double(losses.MeanSquaredError), BITS, OUTPUTS, WEIGHTS),
    "squared error, weighted mean": (
        double(losses.MeanSquaredError, reduction="mean_with_sample_weight"),
        BITS,
        OUTPUTS,
        WEIGHTS,
    ),
    "squared error of rows": (
        double(losses.MeanSquaredError),
        np.zeros((N, T, D)),
        ROWS,
        generator.uniform(size=(N, T)),
    ),
    "bernoulli": (double(losses.BinaryCrossentropy, from_logits=True), BITS, OUTPUTS, None),
    "bernoulli, smoothed and weighted": (
        double(losses.BinaryCrossentropy, from_logits=True, label_smoothing=0.2),
        BITS,
        OUTPUTS,
        WEIGHTS,
    ),
    "categorical": (
        double(losses.CategoricalCrossentropy, from_logits=True, label_smoothing=0.1),
        DENSE,
        OUTPUTS,
        WEIGHTS,
    ),
    "sparse categorical": (
        double(losses.SparseCategoricalCrossentropy, from_logits=True),
        CLASSES,
        OUTPUTS,
        WEIGHTS,
    ),
    "sparse categorical of rows": (
        double(losses.SparseCategoricalCrossentropy, from_logits=True),
        generator.integers(D, size=(N, T)),
        ROWS,
        None,
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    """A likelihood, and the Hessian of each example's loss, shape `(N, outputs, N, outputs)`."""
    loss, y, outputs, sample_weight = request.param
    likelihood = resolve_loss(loss, y, tf.constant(outputs), sample_weight)[0].likelihood
    width = outputs[0].size
    hessian = loss_hessian(loss, y, outputs, sample_weight).reshape(N, width, N, width) * N
    return likelihood, hessian


def per_example(hessian):
    return np.stack([hessian[n, :, n] for n in range(N)])


def test_hessian_product_is_that_of_the_reported_loss(case):
    likelihood, hessian = case
    vector = np.random.default_rng(1).normal(size=likelihood.outputs.shape)
    expected = np.einsum("nimj,mj->ni", hessian, vector.reshape(N, -1))
    product = likelihood.hessian_product(tf.constant(vector)).numpy().reshape(N, -1)
    np.testing.assert_allclose(product, expected, rtol=1e-9, atol=1e-12)


def test_columns_are_a_root_of_each_hessian(case):
    likelihood, hessian = case
    columns = [
        likelihood.column(tf.constant(k)).numpy().reshape(N, -1)
        for k in range(likelihood.num_columns)
    ]
    product = sum(np.einsum("ni,nj->nij", c, c) for c in columns)
    np.testing.assert_allclose(product, per_example(hessian), rtol=1e-9, atol=1e-12)
    if likelihood.num_columns > 1:
        fewer = sum(np.einsum("ni,nj->nij", c, c) for c in columns[1:])
        assert not np.allclose(fewer, per_example(hessian))


def test_means_are_those_of_the_hessians(case):
    likelihood, hessian = case
    mean = per_example(hessian).mean(axis=0)
    np.testing.assert_allclose(likelihood.mean_hessian(), mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(likelihood.mean_diagonal(), np.diag(mean).mean(), rtol=1e-9)


def test_samples_have_the_hessian_as_their_covariance(case):
    likelihood, hessian = case
    draws = np.stack(
        [
            likelihood.sample(tf.constant([7, i], tf.int64)).numpy().reshape(N, -1)
            for i in range(600)
        ]
    )
    products = np.einsum("sni,snj->snij", draws, draws)
    error = products.std(axis=0) / np.sqrt(len(draws))
    expected = per_example(hessian)
    off = np.abs(products.mean(axis=0) - expected) / np.maximum(error, 1e-9)
    assert off.max() < 5  # about 100 entries
    doubled = np.abs(2 * products.mean(axis=0) - expected) / np.maximum(error, 1e-9)
    assert doubled.max() > 5


@pytest.mark.parametrize(
    ("head", "probability_loss", "logit_loss", "y"),
    [
        (
            "softmax",
            "categorical_crossentropy",
            losses.CategoricalCrossentropy(from_logits=True),
            DENSE,
        ),
        (
            "softmax",
            losses.SparseCategoricalCrossentropy(),
            losses.SparseCategoricalCrossentropy(from_logits=True),
            CLASSES,
        ),
        ("sigmoid", "binary_crossentropy", losses.BinaryCrossentropy(from_logits=True), BITS),
    ],
)
@pytest.mark.parametrize("graph", [False, True])
def test_a_head_is_treated_at_its_logits(head, probability_loss, logit_loss, y, graph):
    def means():
        logits = tf.constant(OUTPUTS, tf.float32)
        outputs = keras.activations.get(head)(logits)
        at_head = resolve_loss(probability_loss, y, outputs, WEIGHTS)[0].likelihood
        at_logits = resolve_loss(logit_loss, y, logits, WEIGHTS)[0].likelihood
        return at_head.mean_hessian(), at_logits.mean_hessian(), at_head.outputs, logits

    at_head, at_logits, outputs, logits = (tf.function(means) if graph else means)()
    np.testing.assert_array_equal(outputs, logits)
    np.testing.assert_allclose(at_head, at_logits, rtol=1e-6)


@pytest.mark.parametrize("name", ["mse", "mean_squared_error", losses.mean_squared_error])
def test_strings_and_functions_mean_what_keras_means(name):
    likelihood = resolve_loss(name, BITS, tf.constant(OUTPUTS), None)[0].likelihood
    np.testing.assert_allclose(likelihood.mean_hessian(), 2 / D * np.eye(D), rtol=1e-6)


def test_loss_weights_of_a_compiled_model_scale_the_curvature():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(D)])
    model.compile(loss="mse", loss_weights=[5.0])
    watched = resolve_loss(model._compile_loss, BITS, tf.constant(OUTPUTS), None)[0]
    np.testing.assert_allclose(watched.likelihood.mean_hessian(), 10 / D * np.eye(D), rtol=1e-6)
    expected = 5 * np.mean((BITS - OUTPUTS) ** 2)
    np.testing.assert_allclose(watched.value(tf.constant(OUTPUTS)), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", ["mae", "hinge", lambda y, p: tf.reduce_mean((y - p) ** 2, -1)])
def test_a_loss_without_a_likelihood_is_refused(loss):
    with pytest.raises(ValueError, match=r"No Gauss-Newton curvature.*mean_squared_error"):
        resolve_loss(loss, BITS, tf.constant(OUTPUTS), None)


def test_a_subclass_with_its_own_call_is_refused():
    class Mine(losses.MeanSquaredError):
        def call(self, y_true, y_pred):
            return 3 * super().call(y_true, y_pred)

    with pytest.raises(ValueError, match="No Gauss-Newton curvature"):
        resolve_loss(Mine(), BITS, tf.constant(OUTPUTS), None)


def test_probabilities_without_a_head_are_refused():
    outputs = tf.constant(DENSE)
    with pytest.raises(ValueError, match=r"softmax.*from_logits=True"):
        resolve_loss("categorical_crossentropy", DENSE, outputs, None)


@pytest.mark.parametrize(
    ("loss", "outputs", "message"),
    [
        (losses.MeanSquaredError(reduction=None), OUTPUTS, "no single number"),
        (losses.MeanSquaredError(), OUTPUTS[:, 0], "last axis"),
        (losses.CategoricalCrossentropy(from_logits=True, axis=1), ROWS, "axis=1"),
        (
            losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0),
            OUTPUTS,
            "sample_weight of 0",
        ),
    ],
)
def test_what_curvature_does_not_follow_is_refused(loss, outputs, message):
    with pytest.raises(ValueError, match=message):
        resolve_loss(loss, outputs, tf.constant(outputs), None)
