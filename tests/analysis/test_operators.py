"""The whole Hessian and Gauss-Newton matrix: dense, as products, and as operators of SciPy."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
import scipy.sparse.linalg
import tensorflow as tf
from brute_force import gauss_newton, gauss_newton_of, hessian_of, wrong
from problems import MSE, dense, dropout, mlp, random_problem, reference, sequential

import tf_kfgn
from tf_kfgn import analysis
from tf_kfgn.analysis import progress

MLP = random_problem("mlp", lambda: mlp([4, 3, 2], "tanh"), batch=6)


def residual():
    inputs = keras.Input((3,), dtype="float64")
    hidden = dense(3, "tanh")(inputs)
    normal = keras.layers.LayerNormalization(dtype="float64")(hidden)
    return keras.Model(inputs, dense(2)(keras.layers.Add(dtype="float64")([inputs, normal])))


@pytest.mark.parametrize("name", ["mlp_categorical", "mlp_bernoulli", "sequence_pooled"])
def test_the_gauss_newton_matrix_equals_brute_force_and_the_references(name):
    problem, values = reference(name)
    model = problem.model()
    matrix = analysis.gauss_newton_matrix(model, problem.x, problem.loss, problem.y).numpy()
    np.testing.assert_allclose(matrix, gauss_newton_of(problem), rtol=1e-8, atol=1e-13)
    blocks = tf_kfgn.gauss_newton_blocks(model, problem.x, problem.loss, problem.y)
    start = 0
    for i, block in enumerate(blocks.values()):
        stop = start + len(block)
        of_others = values[f"block_{i}"]
        np.testing.assert_allclose(matrix[start:stop, start:stop], of_others, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(matrix[start:stop, start:stop], block, rtol=1e-8, atol=1e-13)
        start = stop
    assert np.abs(matrix[: len(block), -len(block) :]).max() > 1e-3  # between layers


def test_the_matrix_between_layers_is_an_expected_khatri_rao_product():
    model, x = MLP.model(), MLP.x
    first, last = model.layers
    hidden = first(x).numpy()
    rows, others = np.c_[x, np.ones(6)], np.c_[hidden, np.ones(6)]
    exact, factored = 0.0, np.kron(rows.T @ others / 6, 0.0 * np.eye(3, 2))
    J = np.stack([np.diag(1 - h**2) @ last.kernel.numpy() for h in hidden])  # dh_L/dh_1 transposed
    for a, b, j in zip(rows, others, J, strict=True):
        exact = exact + np.kron(np.outer(a, b), j * 2 / 2) / 6  # H_L = 2/D I, D = 2
    factored = np.kron(rows.T @ others / 6, J.mean(0))
    matrix = analysis.gauss_newton_matrix(model, x, MSE).numpy()
    np.testing.assert_allclose(matrix[:15, 15:], exact, rtol=1e-8, atol=1e-13)
    assert wrong(factored, exact)


def test_weights_without_a_matrix_are_in_the_gauss_newton_matrix():
    problem = random_problem("normalised", residual, batch=4)
    matrix = analysis.gauss_newton_matrix(problem.model(), problem.x, problem.loss)
    np.testing.assert_allclose(matrix, gauss_newton_of(problem), rtol=1e-8, atol=1e-13)


def test_frozen_weights_are_not_in_it():
    def make():
        model = mlp([3, 3, 2], "tanh")
        model.layers[0].trainable = False
        return model

    problem = random_problem("frozen", make, batch=4)
    model = problem.model()
    matrix = analysis.gauss_newton_matrix(model, problem.x, problem.loss)
    exact = gauss_newton(model, problem.x, problem.y, problem.loss, model.trainable_variables)
    np.testing.assert_allclose(matrix, exact, rtol=1e-8, atol=1e-13)
    blocks = tf_kfgn.hessian_blocks(model, problem.x, problem.y, problem.loss)
    assert list(blocks) == [model.layers[1].name]
    last = blocks[model.layers[1].name]  # in which the outputs are linear
    np.testing.assert_allclose(last, exact, rtol=1e-8, atol=1e-13)


def test_the_product_with_the_hessian_is_that_of_the_whole_matrix():
    model, exact = MLP.model(), hessian_of(MLP)
    vector = np.random.default_rng(0).normal(size=len(exact))
    pieces = np.split(vector, np.cumsum([12, 3, 6]))
    vectors = [p.reshape(v.shape) for p, v in zip(pieces, model.trainable_variables, strict=True)]
    product = analysis.hessian_vector_product(model, MLP.x, MLP.y, MLP.loss, vectors)
    flat = np.concatenate([np.ravel(p) for p in product])
    np.testing.assert_allclose(flat, exact @ vector, rtol=1e-8)
    assert not np.allclose(flat[:15], exact[:15, :15] @ vector[:15], rtol=1e-2)


def dense_of(operator):
    return operator @ np.eye(operator.shape[0])


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_operators_over_a_batch_and_over_a_data_set(kind):
    model = MLP.model()
    x, y, loss = MLP.x, MLP.y, MLP.loss
    if kind == "hessian":
        exact, whole = hessian_of(MLP), analysis.hessian_operator(model, x, y, loss)
    else:
        exact, whole = gauss_newton_of(MLP), analysis.gauss_newton_operator(model, x, loss, y)
    np.testing.assert_allclose(dense_of(whole), exact, rtol=1e-8, atol=1e-13)

    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)  # of 4 and 2 examples
    if kind == "hessian":
        parts = analysis.hessian_operator(model, batches, None, loss)
    else:
        parts = analysis.gauss_newton_operator(model, batches, loss)
    vector = np.random.default_rng(0).normal(size=len(exact))
    np.testing.assert_allclose(parts @ vector, exact @ vector, rtol=1e-8, atol=1e-13)
    np.testing.assert_allclose(parts.T @ vector, exact @ vector, rtol=1e-8, atol=1e-13)
    model.layers[0].kernel.assign(model.layers[0].kernel * 2)  # it follows the weights
    assert wrong(parts @ vector, exact @ vector)


def test_the_mean_over_a_data_set_weights_batches_by_their_sizes():
    model = MLP.model()
    batches = tf.data.Dataset.from_tensor_slices((MLP.x, MLP.y)).batch(4)
    parts = analysis.gauss_newton_operator(model, batches, MLP.loss)
    vector = np.ones(parts.shape[0])
    each = [
        analysis.gauss_newton_operator(model, x, MLP.loss, y) @ vector
        for x, y in batches.as_numpy_iterator()
    ]
    assert wrong(np.mean(each, axis=0), parts @ vector)
    np.testing.assert_allclose((4 * each[0] + 2 * each[1]) / 6, parts @ vector, rtol=1e-9)


def test_solvers_of_scipy_work_unchanged():
    model, exact = MLP.model(), gauss_newton_of(MLP)
    operator = analysis.gauss_newton_operator(model, MLP.x, MLP.loss)
    values = scipy.sparse.linalg.eigsh(operator, k=3, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(exact)[-3:], rtol=1e-8)
    damped = operator + 0.1 * scipy.sparse.linalg.aslinearoperator(np.eye(len(exact)))
    right = np.random.default_rng(0).normal(size=len(exact))
    solution, info = scipy.sparse.linalg.cg(damped, right, rtol=1e-12)
    assert info == 0
    expected = np.linalg.solve(exact + 0.1 * np.eye(len(exact)), right)
    np.testing.assert_allclose(solution, expected, rtol=1e-8)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_every_product_draws_the_same_masks(kind):
    make = lambda: sequential((4,), dense(8, "tanh"), dropout(0.5, seed=3), dense(2))  # noqa: E731
    problem = random_problem("masked", make, batch=6)
    model = problem.model()
    state = model.layers[1].seed_generator.state.numpy()
    batches = tf.data.Dataset.from_tensor_slices((problem.x, problem.y)).batch(3)

    def operator(training):
        if kind == "hessian":
            return analysis.hessian_operator(model, batches, None, MSE, training=training)
        return analysis.gauss_newton_operator(model, batches, MSE, training=training)

    noisy, plain = operator(True), operator(False)
    vector = np.ones(noisy.shape[0])
    product = noisy @ vector
    np.testing.assert_array_equal(noisy @ vector, product)
    np.testing.assert_array_equal(model.layers[1].seed_generator.state.numpy(), state)
    assert wrong(plain @ vector, product)
    matrix = dense_of(noisy)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-9, atol=1e-14)  # one pass, one matrix
    again = tf.data.Dataset.from_tensors((problem.x[:3], problem.y[:3])).repeat(2)
    twice = analysis.gauss_newton_operator(model, again, MSE, training=True) @ vector
    once = analysis.gauss_newton_operator(model, again.take(1), MSE, training=True) @ vector
    assert wrong(twice, once)  # each batch has masks of its own


def test_moving_statistics_stay_what_they_are():
    make = lambda: sequential(  # noqa: E731
        (3,), dense(3), keras.layers.BatchNormalization(dtype="float64"), dense(2)
    )
    problem = random_problem("normalised", make)
    model = problem.model()
    before = [v.numpy() for v in model.non_trainable_variables]
    operator = analysis.hessian_operator(model, problem.x, problem.y, MSE, training=True)
    operator @ np.ones(operator.shape[0])
    for variable, value in zip(model.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_several_inputs_and_outputs():
    def make():
        one, other = (keras.Input((2,), dtype="float64", name=n) for n in ("one", "other"))
        hidden = dense(2, "tanh")(keras.layers.Concatenate(dtype="float64")([one, other]))
        return keras.Model([one, other], {"a": dense(2, name="a")(hidden), "b": dense(1)(hidden)})

    model = make()
    generator = np.random.default_rng(0)
    x = [generator.normal(size=(4, 2)) for _ in range(2)]
    y = {"a": generator.normal(size=(4, 2)), "b": generator.normal(size=(4, 1))}
    loss = {"a": MSE, "b": MSE}
    operator = analysis.hessian_operator(model, x, y, loss)
    blocks = tf_kfgn.hessian_blocks(model, x, y, loss, terms=True)
    matrix = dense_of(operator)
    first = len(next(iter(blocks.values())).total)
    np.testing.assert_allclose(
        next(iter(blocks.values())).total, matrix[:first, :first], rtol=1e-8, atol=1e-12
    )
    exact = tf_kfgn.gauss_newton_blocks(model, x, loss, y)
    for name, both in blocks.items():
        np.testing.assert_allclose(both.gauss_newton, exact[name], rtol=1e-8, atol=1e-12)
    assert blocks.reason == "the model has several outputs"


def test_bad_data_is_refused():
    model, x, y, loss = MLP.model(), MLP.x, MLP.y, MLP.loss
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    with pytest.raises(ValueError, match=r"`y` must be None where `x` is a tf\.data\.Dataset"):
        analysis.hessian_operator(model, batches, y, loss)
    with pytest.raises(ValueError, match="`y` is missing"):
        analysis.hessian_operator(model, x, None, loss)
    with pytest.raises(ValueError, match="without any batch"):
        analysis.gauss_newton_operator(model, batches.take(0), loss)
    with pytest.raises(ValueError, match="has not been built"):
        analysis.gauss_newton_operator(keras.Sequential([dense(2)]), x, loss)
    lengths = iter([1, 1, 2])
    shrinking = tf.data.Dataset.from_generator(
        lambda: ((x[:4], y[:4]) for _ in range(next(lengths))),
        output_signature=(
            tf.TensorSpec((None, 4), tf.float64),
            tf.TensorSpec((None, 2), tf.float64),
        ),
    )
    operator = analysis.gauss_newton_operator(model, shrinking, loss)
    operator @ np.ones(operator.shape[0])
    with pytest.raises(ValueError, match="4 examples before and 8 now"):
        operator @ np.ones(operator.shape[0])


def test_scipy_is_asked_for_by_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(ImportError, match=r'needs scipy.*pip install "tf_kfgn\[analysis\]"'):
        analysis.gauss_newton_operator(MLP.model(), MLP.x, MLP.loss)


def test_a_bar_follows_what_takes_long(monkeypatch, capsys):
    pytest.importorskip("rich")
    shown = []
    made = progress._bar

    def spy(label, total):
        shown.append((label, total))
        return made(label, total)

    monkeypatch.setattr(progress, "_bar", spy)
    assert list(progress.follow(range(3), 3, "quick")) == [0, 1, 2]
    assert shown == []
    assert list(progress.follow(iter("abc"), 3, "slow", patience=0.0)) == ["a", "b", "c"]
    assert shown == [("slow", 3)]
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert list(progress.follow(range(3), None, "bare", patience=0.0)) == [0, 1, 2]
    assert capsys.readouterr().out == ""
