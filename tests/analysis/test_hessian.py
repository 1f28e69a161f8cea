"""The exact Hessian, by recursion and by automatic differentiation, against nested tapes."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import hessian_of, wrong
from problems import MSE, Problem, dense, dropout, mlp, random_problem, sequential

import tf_kfgn
from tf_kfgn import analysis
from tf_kfgn.analysis.hessian import AUTOMATIC, RECURSION

CATEGORICAL = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
BERNOULLI = keras.losses.BinaryCrossentropy(from_logits=True, dtype="float64")
POISSON = keras.losses.Poisson(dtype="float64")
ACTIVATIONS = ["relu", "leaky_relu", "tanh", "sigmoid", "softplus", "gelu", "elu"]


class Distance(keras.losses.Loss):
    """A user's own convex loss."""

    def call(self, y_true, y_pred):
        squared = keras.ops.sum(keras.ops.square(y_pred - y_true), axis=-1)
        return keras.ops.sqrt(1 + squared) - 1


class Welsch(keras.losses.Loss):
    """A robust loss that is far from convex."""

    def call(self, y_true, y_pred):
        return keras.ops.mean(1 - keras.ops.exp(-2 * keras.ops.square(y_pred - y_true)), axis=-1)


WELSCH = Welsch(dtype="float64")


def layer(cls, *args, **kwargs):
    return cls(*args, dtype="float64", **kwargs)


def blocks_of(problem, model, matrix):
    """The diagonal blocks of a matrix over all trainable variables, by layer."""
    found, start = {}, 0
    for cell in model.layers:
        size = sum(int(np.prod(v.shape)) for v in cell.trainable_variables)
        if size:
            found[cell.name] = matrix[start : start + size, start : start + size]
            start += size
    assert start == len(matrix)
    return found


def check(problem, source=RECURSION):
    """Blocks equal brute force, and came from where they should."""
    model = problem.model()
    classes = [type(cell) for cell in model.layers]
    blocks = tf_kfgn.hessian_blocks(model, problem.x, problem.y, problem.loss)
    exact = blocks_of(problem, model, hessian_of(problem))
    assert [type(cell) for cell in model.layers] == classes
    assert set(blocks) == set(exact)
    assert set(blocks.sources.values()) == {source}
    for name, block in exact.items():
        scale = max(np.abs(block).max(), 1e-3)
        np.testing.assert_allclose(blocks[name], block, rtol=1e-8, atol=1e-11 * scale)
    return model, blocks, exact


def perceptron(activation, depth, outputs=2):
    return lambda: mlp([*[3, 3, 2, 3, 2][:depth], outputs], activation)


LOSSES = {
    "squared error": MSE,
    "Bernoulli": BERNOULLI,
    "categorical": CATEGORICAL,
    "own": Distance(dtype="float64"),
    "not convex": WELSCH,
}


@pytest.mark.parametrize(
    ("activation", "depth"),
    [(activation, 2 + i % 4) for i, activation in enumerate(ACTIVATIONS)],
)
def test_the_recursion_equals_brute_force(activation, depth):
    loss = list(LOSSES.values())[(ACTIVATIONS.index(activation) + depth) % len(LOSSES)]
    check(random_problem(activation, perceptron(activation, depth), loss))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_recursion_takes_any_loss(loss):
    check(random_problem("loss", perceptron("tanh", 3), loss))


def rates():
    return sequential((4,), dense(4, "tanh"), dense(3, "exponential"))


def test_the_recursion_takes_positive_outputs_of_a_poisson_loss():
    check(random_problem("rates", rates, POISSON))


@pytest.mark.parametrize(
    "head",
    [
        (keras.losses.SparseCategoricalCrossentropy, "softmax"),
        (keras.losses.BinaryCrossentropy, "sigmoid"),
        (keras.losses.MeanSquaredError, "softmax"),
    ],
    ids=lambda head: f"{head[0].__name__} {head[1]}",
)
def test_the_recursion_ends_in_probabilities(head):
    loss, activation = head
    make = lambda: sequential((4,), dense(5, "tanh"), dense(3, activation))  # noqa: E731
    check(random_problem("head", make, loss(dtype="float64")))


CHAINS = {
    "flatten and activation layers": lambda: sequential(
        (2, 2),
        layer(keras.layers.Flatten),
        dense(5, use_bias=False),
        layer(keras.layers.Activation, "tanh"),
        dense(4, lambda h: h**3 / 5),
        layer(keras.layers.LeakyReLU),
        dense(3),
    ),
    "positions of a sequence": lambda: sequential(
        (3, 4),
        dense(3, "tanh"),
        dense(2, "sigmoid"),
        layer(keras.layers.GlobalAveragePooling1D),
        dense(3),
    ),
    "convolution": lambda: sequential(
        (4, 4, 2),
        layer(keras.layers.Conv2D, 2, 2, activation="tanh"),
        layer(keras.layers.MaxPooling2D, 2, strides=1),
        layer(keras.layers.Flatten),
        dense(3),
    ),
    "softmax inside": lambda: sequential(
        (4,), dense(4), layer(keras.layers.Softmax), dense(3, "tanh"), dense(2)
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_recursion_goes_through_chains(name):
    check(random_problem(name, CHAINS[name], batch=4))


def residual():
    inputs = keras.Input((4,), dtype="float64")
    hidden = dense(4, "tanh")(inputs)
    return keras.Model(inputs, dense(2)(layer(keras.layers.Add)([inputs, hidden])))


def twice():
    inputs = keras.Input((3,), dtype="float64")
    shared = dense(3, "tanh")
    return keras.Model(inputs, dense(2)(shared(shared(inputs))))


GRAPHS = {
    "residual": residual,
    "a layer used twice": twice,
    "batch normalisation": lambda: sequential(
        (4,), dense(3), layer(keras.layers.BatchNormalization), dense(2, "tanh")
    ),
}


@pytest.mark.parametrize("name", ["residual", "a layer used twice", "batch normalisation"])
def test_other_models_are_differentiated(name):
    _, blocks, _ = check(random_problem(name, GRAPHS[name], batch=4), AUTOMATIC)
    assert blocks.reason.startswith("layer ")


def test_weights_beside_the_matrices_of_a_chain_are_differentiated():
    make = lambda: sequential((4,), dense(3), layer(keras.layers.PReLU), dense(2))  # noqa: E731
    problem = random_problem("slopes", make)
    model = problem.model()
    blocks = tf_kfgn.hessian_blocks(model, problem.x, problem.y, problem.loss)
    first, slopes, last = (cell.name for cell in model.layers)
    assert blocks.sources == {first: RECURSION, last: RECURSION, slopes: AUTOMATIC}
    for name, block in blocks_of(problem, model, hessian_of(problem)).items():
        np.testing.assert_allclose(blocks[name], block, rtol=1e-8, atol=1e-12)


def test_many_columns_are_computed_at_once():
    make = lambda: residual_of(8)  # noqa: E731
    check(random_problem("wide", make, batch=3), AUTOMATIC)


def residual_of(width):
    inputs = keras.Input((width,), dtype="float64")
    hidden = dense(width, "tanh")(inputs)  # 72 weights
    return keras.Model(inputs, dense(1)(layer(keras.layers.Add)([inputs, hidden])))


def test_recurrent_layers_are_differentiated():
    make = lambda: sequential((3, 2), layer(keras.layers.SimpleRNN, 2), dense(2))  # noqa: E731
    problem = random_problem("recurrent", make, batch=3)
    model = problem.model()
    blocks = tf_kfgn.hessian_blocks(model, problem.x, problem.y, problem.loss)
    exact = hessian_of(problem)
    rnn = model.layers[0].name
    assert set(blocks.sources.values()) == {AUTOMATIC}
    kernel = [0, 1, 2, 3, 8, 9]  # with the bias; the recurrent kernel is 4 to 7
    np.testing.assert_allclose(blocks[f"{rnn}/kernel"], exact[np.ix_(kernel, kernel)], rtol=1e-8)
    recurrent = blocks[f"{rnn}/recurrent_kernel"]
    np.testing.assert_allclose(recurrent, exact[4:8, 4:8], rtol=1e-8)


# The terms


@pytest.mark.parametrize("source", [RECURSION, AUTOMATIC])
def test_terms_add_up_and_the_first_is_the_gauss_newton_matrix(source):
    make = perceptron("tanh", 3) if source == RECURSION else residual
    problem = random_problem("terms", make, CATEGORICAL if source == RECURSION else MSE)
    model, blocks, _ = check(problem, source)
    terms = tf_kfgn.hessian_blocks(model, problem.x, problem.y, problem.loss, terms=True)
    gauss_newton = tf_kfgn.gauss_newton_blocks(model, problem.x, problem.loss, problem.y)
    for name, block in blocks.items():
        np.testing.assert_allclose(terms[name].total, block, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(
            terms[name].gauss_newton, gauss_newton[name], rtol=1e-8, atol=1e-12
        )
    first = next(iter(blocks))
    assert wrong(terms[first].gauss_newton, blocks[first])  # a smooth activation bends


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", None])
def test_the_second_term_vanishes_in_piecewise_linear_networks(activation):
    problem = random_problem("flat", perceptron(activation, 4), CATEGORICAL)
    model = problem.model()
    terms = tf_kfgn.hessian_blocks(model, problem.x, problem.y, problem.loss, terms=True)
    exact = tf_kfgn.gauss_newton_blocks(model, problem.x, problem.loss, problem.y)
    for name, both in terms.items():
        assert not np.any(both.bends)
        np.testing.assert_allclose(both.gauss_newton, exact[name], rtol=1e-8, atol=1e-13)
        assert np.linalg.eigvalsh(both.total).min() > -1e-12


def test_with_a_smooth_activation_a_block_may_be_indefinite():
    problem = random_problem("bent", perceptron("tanh", 3))
    blocks = tf_kfgn.hessian_blocks(problem.model(), problem.x, problem.y, problem.loss)
    assert min(np.linalg.eigvalsh(block).min() for block in blocks.values()) < -1e-3


def test_a_loss_that_is_not_convex_is_not_clipped():
    problem = random_problem("far", perceptron("relu", 3), WELSCH)
    problem = dataclasses.replace(problem, y=problem.y + 1)  # beyond 1/2 this loss is concave
    model, blocks, _ = check(problem)
    last = list(blocks)[-1]
    clipped = tf_kfgn.gauss_newton_blocks(model, problem.x, problem.loss, problem.y)[last]
    assert np.linalg.eigvalsh(blocks[last]).min() < -1e-3
    assert np.linalg.eigvalsh(clipped).min() > -1e-12
    assert wrong(clipped, blocks[last])


# Single examples


@pytest.mark.parametrize("make", [perceptron("tanh", 3), residual], ids=["chain", "graph"])
def test_preactivation_hessians_are_those_of_each_example(make):
    problem = random_problem("examples", make, batch=4)
    model = problem.model()
    found = analysis.preactivation_hessians(model, problem.x, problem.y, problem.loss)
    for n in range(4):
        x, y = problem.x[n : n + 1], problem.y[n : n + 1]
        alone = Problem("alone", problem.model, x, y, problem.loss)
        exact = blocks_of(alone, model, hessian_of(alone))
        for cell in model.layers:
            if cell.name in found:
                bias = exact[cell.name][-cell.units :, -cell.units :]  # its input is 1
                np.testing.assert_allclose(found[cell.name][n], bias, rtol=1e-8, atol=1e-12)
    assert all(H.shape[0] == 4 for H in found.values())
    if "Sequential" in type(model).__name__:
        blocks = tf_kfgn.hessian_blocks(model, problem.x, problem.y, problem.loss)
        first = model.layers[0]
        rows = np.c_[problem.x, np.ones(4)]
        mean = sum(
            np.kron(np.outer(a, a), H) for a, H in zip(rows, found[first.name].numpy(), strict=True)
        )
        np.testing.assert_allclose(blocks[first.name], mean / 4, rtol=1e-8, atol=1e-12)
        A = rows.T @ rows / 4
        assert wrong(np.kron(A, np.mean(found[first.name], axis=0)), blocks[first.name])


def test_masks_of_dropout_are_the_same_in_all_blocks():
    make = lambda: sequential((4,), dense(6, "tanh"), dropout(0.5, seed=1), dense(2))  # noqa: E731
    problem = random_problem("masked", make, batch=3)
    model = problem.model()
    state = model.layers[1].seed_generator.state
    before = state.numpy()
    terms = tf_kfgn.hessian_blocks(
        model, problem.x, problem.y, problem.loss, terms=True, training=True
    )
    np.testing.assert_array_equal(state.numpy(), before)
    first, last = terms
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            value = problem.loss(problem.y, model(problem.x, training=True))
        kernel = model.layers[2].kernel.value
        gradient = tf.reshape(inner.gradient(value, kernel), (-1,))
    exact = outer.jacobian(gradient, kernel, experimental_use_pfor=False)
    exact = exact.numpy().reshape(12, 12)
    np.testing.assert_allclose(terms[last].total[:12, :12], exact, rtol=1e-8, atol=1e-14)
    plain = tf_kfgn.hessian_blocks(model, problem.x, problem.y, problem.loss)
    assert wrong(plain[last][:12, :12], exact)
    assert wrong(plain[first], terms[first].total)


# What is refused


class Unsmooth(keras.layers.Layer):
    """A layer of whose gradient TensorFlow knows no derivative."""

    def call(self, x):
        @tf.custom_gradient
        def function(x):
            def gradient(g):
                return tf.raw_ops.ResizeBicubicGrad(
                    grads=tf.cast(g, tf.float32)[:, None, :, None],
                    original_image=tf.cast(x, tf.float32)[:, None, :, None],
                )[:, 0, :, 0] * tf.constant(1.0)

            return x * 1.0, lambda g: tf.cast(gradient(g), x.dtype)

        return function(x)


def test_what_cannot_be_computed_is_refused_by_name():
    problem = random_problem("simple", perceptron("tanh", 2))
    model, x, y, loss = problem.model(), problem.x, problem.y, problem.loss
    with pytest.raises(ValueError, match=r"`y` is missing.*received y=None"):
        tf_kfgn.hessian_blocks(model, x, None, loss)
    with pytest.raises(ValueError, match="has not been built"):
        tf_kfgn.hessian_blocks(keras.Sequential([dense(2)]), x, y, loss)
    with pytest.raises(TypeError, match=r"must be a keras\.Model, received 'model'"):
        tf_kfgn.hessian_blocks("model", x, y, loss)
    with pytest.raises(NotImplementedError, match=r"Layer .* is used 2 times"):
        shared = random_problem("twice", twice)
        analysis.preactivation_hessians(shared.model(), shared.x, shared.y, shared.loss)
    vectors = [np.ones(3)]
    with pytest.raises(ValueError, match=r"`vectors` must be shaped like.*received \[\(3,\)\]"):
        analysis.hessian_vector_product(model, x, y, loss, vectors)


def test_a_layer_that_cannot_be_differentiated_twice_is_named():
    make = lambda: sequential(  # noqa: E731
        (4,), dense(4), layer(Unsmooth, name="resized"), dense(3, "tanh"), dense(2)
    )
    problem = random_problem("unsmooth", make)
    model, x, y, loss = problem.model(), problem.x, problem.y, problem.loss
    message = r"Layer 'resized' \(Unsmooth\) cannot be differentiated twice"
    with pytest.raises(NotImplementedError, match=message):
        tf_kfgn.hessian_blocks(model, x, y, loss)
    vectors = [tf.ones_like(v.value) for v in model.trainable_variables]
    with pytest.raises(NotImplementedError, match=message):
        analysis.hessian_vector_product(model, x, y, loss, vectors)
    assert type(model.layers[0]) is keras.layers.Dense


def test_matrices_that_would_not_fit_are_refused_before_they_are_made(monkeypatch):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, name="wide")])
    monkeypatch.setattr("tf_kfgn.analysis.memory.available_memory", lambda: 4000.0)
    x, y = np.ones((2, 4)), np.ones((2, 5))
    monkeypatch.setattr(np, "empty", None)
    with pytest.raises(ValueError, match=r"layer 'wide', 25 x 25, would take .* GiB in float32"):
        tf_kfgn.hessian_blocks(model, x, y, "mse")
    with pytest.raises(ValueError, match="25 x 25, would take"):
        analysis.gauss_newton_matrix(model, x, "mse")
    with pytest.raises(ValueError, match="a 5 x 5 matrix for each of 100 examples"):
        analysis.preactivation_hessians(model, np.ones((100, 4)), np.ones((100, 5)), "mse")


def test_memory_that_is_not_known_refuses_nothing(monkeypatch):
    monkeypatch.setattr("tf_kfgn.analysis.memory.available_memory", lambda: None)
    check(random_problem("simple", perceptron("tanh", 2)))
