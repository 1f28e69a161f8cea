"""Losses whose curvature is differentiated: every kind of row, clipped where it is not convex."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, loss_hessian, wrong
from problems import dense, sequential

import tf_kfgn
from tf_kfgn.losses import General, Poisson, Separable, resolve_loss

losses = keras.losses
N, T, D = 4, 2, 3


def near(y_true, y_pred):
    """One value for each example, over all its positions."""
    return tf.sqrt(1 + tf.reduce_sum((y_true - y_pred) ** 2, axis=(1, 2)))


def each(y_true, y_pred):
    """One value for each output."""
    return (y_true - y_pred) ** 4


def normal(generator, shape):
    return generator.normal(size=shape)


def bits(generator, shape):
    return generator.integers(2, size=shape).astype(float)


def distribution(generator, shape):
    return generator.dirichlet(np.ones(shape[-1]), size=shape[:-1])


def classes(generator, shape):
    return generator.integers(shape[-1], size=shape[:-1])


def without_last_axis(generator, shape):
    return generator.normal(size=shape[:-1])


# Name: kind, loss, options, outputs, targets, shape of the outputs, whether some Hessian is not
# semi-definite
CASES = {
    "divergence": (Separable, "KLDivergence", {}, distribution, distribution, (N, T, D), False),
    "squared hinge": (Separable, "SquaredHinge", {}, normal, bits, (N, D), False),
    "probabilities": (
        Separable,
        "BinaryCrossentropy",
        {"label_smoothing": 0.1},
        distribution,
        bits,
        (N, T, D),
        False,
    ),
    "no last axis": (Separable, "Huber", {}, normal, without_last_axis, (N, 3, 1), False),
    "rows, no last axis": (
        Separable,
        "LogCosh",
        {},
        normal,
        without_last_axis,
        (N, T, 3, 1),
        False,
    ),
    "focal logits": (
        General,
        "CategoricalFocalCrossentropy",
        {"from_logits": True},
        normal,
        distribution,
        (N, T, D),
        True,
    ),
    "classes": (
        General,
        "SparseCategoricalCrossentropy",
        {},
        distribution,
        classes,
        (N, T, D),
        True,
    ),
    "cosine": (General, "CosineSimilarity", {}, normal, normal, (N, D), True),
    "overlap": (General, "Tversky", {"axis": -1}, distribution, bits, (N, T, D), True),
    "overlap of examples": (General, "Dice", {"axis": (1, 2)}, distribution, bits, (N, T, D), True),
    "whole examples": (General, near, {}, normal, normal, (N, T, D), False),
    "every output": (General, each, {}, normal, normal, (N, T, D), False),
}


def made(name, reduction="sum_over_batch_size"):
    """A float64 loss, targets and outputs."""
    _, loss, options, outputs, targets, shape, _ = CASES[name]
    options = {"reduction": reduction, "dtype": "float64", **options}
    wrapper = losses.MeanSquaredError.__mro__[1]  # what `compile` makes of a function
    loss = getattr(losses, loss)(**options) if isinstance(loss, str) else wrapper(loss, **options)
    generator = np.random.default_rng(3)
    z = outputs(generator, shape)
    return loss, targets(generator, shape), tf.constant(z)


def resolved(name, weight=True, reduction="sum_over_batch_size"):
    """A likelihood, and the Hessian of each example's loss before and after clipping."""
    loss, y, z = made(name, reduction)
    rows = loss.call(tf.constant(y), z).shape
    sample_weight = np.random.default_rng(4).uniform(0.5, 2.0, size=rows) if weight else None
    likelihood = resolve_loss(loss, y, z, sample_weight)[0].likelihood
    assert type(likelihood) is CASES[name][0]
    width = likelihood.num_columns
    hessian = loss_hessian(loss, y, z, sample_weight).reshape(N, width, N, width) * N
    examples = np.stack([hessian[n, :, n] for n in range(N)])
    values, vectors = np.linalg.eigh(examples)
    clipped = np.einsum("nij,nj,nkj->nik", vectors, np.maximum(values, 0), vectors)
    return likelihood, examples, clipped


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """What `resolved` returns, and whether clipping changes it."""
    return (*resolved(request.param), CASES[request.param][-1])


def test_the_hessian_is_that_of_the_reported_loss_but_for_its_negative_part(case):
    likelihood, examples, clipped, not_convex = case
    allclose(likelihood.mean_hessian(), clipped.mean(axis=0))
    allclose(likelihood.mean_diagonal(), np.diag(clipped.mean(axis=0)).mean())
    assert wrong(likelihood.mean_hessian(), examples.mean(axis=0), by=1e-6) == not_convex


def test_products_and_roots_are_those_of_the_clipped_hessian(case):
    likelihood, _, clipped, _ = case
    shape = likelihood.outputs.shape
    vectors = np.random.default_rng(1).normal(size=shape)
    product = likelihood.hessian_product(tf.constant(vectors))
    allclose(np.reshape(product, (N, -1)), np.einsum("nij,nj->ni", clipped, vectors.reshape(N, -1)))
    columns = [likelihood.column(tf.constant(k)) for k in range(likelihood.num_columns)]
    root = np.reshape(columns, (likelihood.num_columns, N, -1))
    allclose(np.einsum("kni,knj->nij", root, root), clipped)
    # One vector for each example, and one for all.
    expected = np.einsum("kni,nk->ni", root, vectors.reshape(N, -1))
    allclose(np.reshape(likelihood.root_product(vectors), (N, -1)), expected)
    flat = vectors[0].reshape(likelihood.positions, likelihood.features)
    expected = np.einsum("kni,k->ni", root, flat.ravel())
    allclose(np.reshape(likelihood.root_product(flat), (N, -1)), expected)


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("name", ["no last axis", "overlap", "whole examples", "every output"])
def test_reductions_scale_the_curvature(name, weight, reduction):
    likelihood, _, clipped = resolved(name, weight, reduction)
    allclose(likelihood.mean_hessian(), clipped.mean(axis=0))


def test_samples_have_the_clipped_hessian_as_their_second_moment():
    likelihood, examples, clipped = resolved("focal logits")
    draw = tf.function(likelihood.sample)
    draws = np.stack(
        [draw(tf.constant([7, i], tf.int64)).numpy().reshape(N, -1) for i in range(2000)]
    )
    products = np.einsum("sni,snj->snij", draws, draws)
    error = np.maximum(products.std(axis=0) / np.sqrt(len(draws)), 1e-9)

    def deviation(expected):
        return np.sqrt(np.mean(((products.mean(axis=0) - expected) / error) ** 2))

    assert deviation(clipped) < 1.5
    assert deviation(examples) > 3


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("name", ["probabilities", "focal logits", "whole examples"])
def test_the_general_rule_is_the_same_in_a_graph(name, mode):
    def curvature():
        likelihood = resolve_loss(*made(name), None)[0].likelihood
        seed = tf.constant([1, 2], tf.int64)
        return likelihood.mean_hessian(), likelihood.column(tf.constant(1)), likelihood.sample(seed)

    expected = curvature()
    actual = tf.function(curvature, jit_compile=mode == "xla")()
    for one, other in zip(actual, expected, strict=True):
        # The root of an eigenvalue that is only 0 up to rounding is less exact than it.
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_columns_may_be_taken_inside_a_loop():
    @tf.function
    def total():
        likelihood = resolve_loss(*made("whole examples"), None)[0].likelihood
        zeros = tf.zeros_like(likelihood.outputs)
        _, squares = tf.while_loop(
            lambda k, _: k < likelihood.num_columns,
            lambda k, sums: (k + 1, sums + likelihood.column(k) ** 2),
            (tf.constant(0), zeros),
        )
        return squares, likelihood.mean_diagonal()

    squares, diagonal = total()
    allclose(tf.reduce_mean(squares), diagonal)


def test_a_differentiated_loss_takes_probabilities_even_behind_a_head():
    generator = np.random.default_rng(0)
    logits, y = generator.normal(size=(N, D)), bits(generator, (N, D))
    loss = losses.BinaryFocalCrossentropy(dtype="float64")
    probabilities = tf.sigmoid(tf.constant(logits))
    expected = resolve_loss(loss, y, probabilities, None)[0].likelihood.mean_hessian()

    def mean_hessian():
        outputs = keras.activations.sigmoid(tf.constant(logits))
        return resolve_loss(loss, y, outputs, None)[0].likelihood.mean_hessian()

    hessian = loss_hessian(loss, y, probabilities).reshape(N, D, N, D)
    diagonal = sum(np.maximum(np.diag(hessian[n, :, n]), 0) for n in range(N))
    allclose(expected, np.diag(diagonal))
    allclose(mean_hessian(), expected)
    allclose(tf.function(mean_hessian)(), expected)


def test_rates_behind_an_exponential_are_found_in_eager_mode_too():
    model = sequential((3,), dense(3, "tanh"), dense(2, "exponential"))
    tf_kfgn.enable_curvature(model)
    x, loss = np.random.default_rng(0).normal(size=(N, 3)), losses.Poisson(dtype="float64")

    def mean_hessian():
        with tf_kfgn.CurvatureTape() as tape:
            tape.watch_loss(loss, np.ones((N, 2)), model(x))
        assert isinstance(tape.likelihoods[0], Poisson)
        return tape.likelihoods[0].mean_hessian()

    allclose(mean_hessian(), np.diag(model(x).numpy().mean(axis=0) / 2))
    allclose(mean_hessian(), tf.function(mean_hessian)())


def test_rates_behind_another_head_are_no_exponentials():
    outputs = keras.activations.sigmoid(tf.zeros((N, D)))
    likelihood = resolve_loss("poisson", np.ones((N, D)), outputs, None)[0].likelihood
    assert isinstance(likelihood, Separable)


def test_negative_weights_have_products_and_no_root():
    loss = losses.CosineSimilarity(dtype="float64")
    generator = np.random.default_rng(0)
    z, y = tf.constant(generator.normal(size=(N, D))), generator.normal(size=(N, D))
    signs = np.array([1.0, -1.0, 1.0, 1.0])
    plain, signed = (resolve_loss(loss, y, z, w)[0].likelihood for w in (None, signs))
    allclose(signed.hessian_product(z), plain.hessian_product(z) * signs[:, None])
    assert np.isfinite(signed.mean_hessian()).all()
    column = signed.column(tf.constant(0)).numpy()
    assert np.isnan(column[1]).all()
    assert np.isfinite(column[[0, 2, 3]]).all()


def test_a_loss_that_is_not_finite_gives_no_error():
    z = tf.constant([[np.nan, 1.0], [1.0, 2.0]])
    loss = losses.CosineSimilarity()
    likelihood = resolve_loss(loss, np.ones((2, 2)), z, None)[0].likelihood
    product = likelihood.hessian_product(tf.ones((2, 2))).numpy()
    assert np.isnan(product[0]).all()
    assert np.isfinite(product[1]).all()


def test_a_loss_without_a_second_derivative_is_named():
    @tf.custom_gradient
    def once(z):
        def gradient(upstream):
            @tf.custom_gradient
            def no_more(z):
                def refuse(_):
                    raise LookupError("no gradient defined")

                return z, refuse

            return upstream * no_more(z)

        return z**2, gradient

    def stubborn(y_true, y_pred):
        return tf.reduce_sum(once(y_pred), axis=-1)

    z = np.ones((N, D))
    with pytest.raises(ValueError, match=r"cannot differentiate.*stubborn.*twice"):
        resolve_loss(stubborn, z, tf.constant(z), None)
