"""The recorded pass, and its products against automatic differentiation."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, flat, gauss_newton_of, hessian_of, loss_hessian, wrong
from passes import MODES, compiled, random_vectors, record
from problems import (
    MSE,
    PROBLEMS,
    Problem,
    dense,
    dropout,
    mlp,
    random_problem,
    seeded,
    sequential,
)

import tf_kfgn
from tf_kfgn.losses import Bernoulli, Categorical, Poisson
from tf_kfgn.recording.active import active_tape

CATEGORICAL = PROBLEMS["mlp_categorical"]
DROPOUT = random_problem(
    "dropout",
    lambda: sequential((6,), dropout(0.2), dense(5, "tanh"), dropout(0.5), dense(4)),
)


# Products


def test_jvp_equals_forward_mode(problem):
    model, tape, outputs = record(problem)
    tangents = random_vectors(model.trainable_variables)
    values = [variable.value for variable in model.trainable_variables]
    with tf.autodiff.ForwardAccumulator(values, tangents) as accumulator:
        again = model(problem.x)
    expected = accumulator.jvp(again)
    allclose(tape.jvp(tangents), expected)
    allclose(tape.jvp(tangents, outputs), expected)
    assert wrong(tape.jvp(random_vectors(model.trainable_variables, seed=4)), expected)


def test_vjp_equals_the_gradient(problem):
    model, tape, outputs = record(problem)
    cotangents, others = random_vectors([outputs, outputs])
    values = [variable.value for variable in model.trainable_variables]
    expected = flat(tape.gradient(outputs, values, output_gradients=cotangents))
    allclose(flat(tape.vjp(cotangents)), expected)
    with tf.GradientTape() as plain:
        again = model(problem.x)
    allclose(flat(plain.gradient(again, values, output_gradients=cotangents)), expected)
    assert wrong(flat(tape.vjp(others)), expected)


def test_gauss_newton_product_equals_the_dense_matrix(problem):
    model, tape, _ = record(problem)
    vectors = random_vectors(model.trainable_variables)
    expected = gauss_newton_of(problem) @ flat(vectors)
    allclose(flat(tape.gauss_newton_vector_product(vectors)), expected)
    if problem.sample_weight is not None:
        tape.watched_losses.clear()
        tape.watch_loss(problem.loss, problem.y, model(problem.x))
        assert wrong(flat(tape.gauss_newton_vector_product(vectors)), expected)


@pytest.mark.parametrize(
    ("model", "same"), [(lambda: mlp([3, 2], None), True), (lambda: mlp([3, 3, 2], None), False)]
)
def test_gauss_newton_is_the_hessian_only_where_the_outputs_are_linear(model, same):
    given = random_problem("linear", model)
    _, tape, _ = record(given)
    vectors = random_vectors(tape.variables)
    product = flat(tape.gauss_newton_vector_product(vectors))
    hessian = hessian_of(given) @ flat(vectors)
    if same:
        allclose(product, hessian)
    else:
        assert wrong(product, hessian)


@pytest.mark.parametrize("mode", MODES)
def test_products_use_the_masks_of_the_recorded_pass(mode):
    model = tf_kfgn.enable_curvature(DROPOUT.model())
    variables = model.trainable_variables
    vectors = random_vectors(variables)

    def products():
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(DROPOUT.x, training=True)
            tape.watch_loss(MSE, DROPOUT.y, outputs)
        masks = [op.output / op.input for op in tape.operations if "dropout" in op.layer.name]
        return outputs, masks, tape.jvp(vectors), tape.gauss_newton_vector_product(vectors)

    outputs, masks, tangent, product = compiled(products, mode)()
    kernels = [variable.value for variable in variables]
    with tf.GradientTape(persistent=True) as plain:
        plain.watch(kernels)
        hidden = tf.tanh((DROPOUT.x * masks[0]) @ kernels[0] + kernels[1])
        by_hand = tf.reshape((hidden * masks[1]) @ kernels[2] + kernels[3], (-1,))
    jacobians = plain.jacobian(by_hand, kernels, experimental_use_pfor=False)
    jacobian = np.concatenate([j.numpy().reshape(len(by_hand), -1) for j in jacobians], axis=1)
    hessian = loss_hessian(MSE, DROPOUT.y, outputs)

    assert {float(mask) for mask in np.unique(masks[1])} == {0.0, 2.0}
    allclose(flat([outputs]), by_hand)
    allclose(flat([tangent]), jacobian @ flat(vectors))
    allclose(flat(product), jacobian.T @ hessian @ jacobian @ flat(vectors))
    assert wrong(flat(product), gauss_newton_of(DROPOUT) @ flat(vectors))  # without any mask


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("name", ["mlp_categorical", "mlp_bernoulli", "softmax as layer"])
def test_products_are_the_same_in_a_graph(name, mode):
    given = PROBLEMS[name]
    model = tf_kfgn.enable_curvature(given.model())
    vectors = random_vectors(model.trainable_variables)

    def products(x):
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(x)
            tape.watch_loss(given.loss, given.y, outputs)
        product = tape.gauss_newton_vector_product(vectors)
        return [tape.jvp(vectors), *tape.vjp(outputs), *product]

    x = tf.constant(given.x)
    for expected, actual in zip(products(x), compiled(products, mode)(x), strict=True):
        allclose(actual, expected)


def test_products_of_several_outputs_keep_their_structure_and_add_up():
    inputs = keras.Input((4,), dtype="float64")
    hidden = dense(3, "tanh")(inputs)
    outputs = {"b": dense(2, name="b")(hidden), "a": dense(3, name="a")(hidden)}
    model = tf_kfgn.enable_curvature(keras.Model(inputs, outputs))
    x = np.random.default_rng(0).normal(size=(5, 4))
    y = {"a": np.zeros((5, 3)), "b": np.zeros((5, 2))}

    def product(*names):
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(x)
            for name in names:
                tape.watch_loss(MSE, y[name], outputs[name])
        return tape, outputs, flat(tape.gauss_newton_vector_product(vectors, tape.variables))

    vectors = random_vectors(model.trainable_variables)
    tape, outputs, both = product("a", "b")
    allclose(both, product("a")[2] + product("b")[2])
    assert wrong(both, product("a")[2])
    structured, (first, second) = tape.jvp(vectors, outputs), tape.jvp(vectors)
    np.testing.assert_array_equal(structured["a"], first)
    np.testing.assert_array_equal(structured["b"], second)


def test_products_cover_embeddings():
    def make():
        embedding = keras.layers.Embedding(5, 3, dtype="float64")
        flatten = keras.layers.Flatten(dtype="float64")
        return keras.Sequential([keras.Input((2,), dtype="int32"), embedding, flatten, dense(2)])

    ids = np.array([[0, 1], [1, 1], [2, 4]])
    given = Problem("embedding", seeded(make), ids, np.zeros((3, 2)), MSE)
    _, tape, outputs = record(given)
    vectors = random_vectors(tape.variables)
    assert all(tf.is_tensor(product) for product in tape.vjp(outputs))
    expected = gauss_newton_of(given) @ flat(vectors)
    allclose(flat(tape.gauss_newton_vector_product(vectors)), expected)


def test_jvp_of_some_variables_leaves_the_others_where_they_are():
    _, tape, outputs = record(CATEGORICAL)
    vectors = random_vectors(tape.variables)
    padded = vectors[:2] + [tf.zeros_like(v) for v in vectors[2:]]
    partial = tape.jvp(vectors[:2], outputs, tape.variables[:2])
    allclose(partial, tape.jvp(padded))
    assert wrong(partial, tape.jvp(vectors))


def test_variables_that_the_outputs_do_not_use_get_zeros():
    model, tape, outputs = record(CATEGORICAL)
    stranger = mlp([2, 2], None).trainable_variables
    products = tape.vjp(tf.ones_like(outputs), variables=[*model.trainable_variables, *stranger])
    np.testing.assert_array_equal(flat(products[-2:]), 0)
    assert np.any(flat(products[:-2]) != 0)


def test_variables_come_in_the_order_of_the_model():
    inputs = keras.Input((4,), dtype="float64")
    late, early = dense(2, name="late"), dense(4, name="early")
    inner = sequential((4,), dense(3, name="inner"), dense(4, name="frozen", trainable=False))
    model = keras.Model(inputs, late(inner(early(inputs))))
    tf_kfgn.enable_curvature(model)
    with tf_kfgn.CurvatureTape() as tape:
        model(np.zeros((2, 4)))
    assert [v.path for v in tape.variables] == [v.path for v in model.trainable_variables]
    assert [v is w for v, w in zip(tape.variables, model.trainable_variables, strict=True)]
    assert not any("frozen" in variable.path for variable in tape.variables)


def test_a_wrong_number_of_tangents_is_refused():
    _, tape, _ = record(CATEGORICAL)
    for tangents in (random_vectors(tape.variables)[:-1], random_vectors(tape.variables) * 2):
        with pytest.raises(ValueError, match="one tensor for each of the 6 variables"):
            tape.jvp(tangents)


def test_without_a_watched_loss_products_say_what_to_call():
    model = tf_kfgn.enable_curvature(mlp([6, 3], None))
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(CATEGORICAL.x)
    for product in (tape.vjp, tape.jvp, tape.gauss_newton_vector_product):
        with pytest.raises(ValueError, match="watch_loss"):
            product(outputs if product == tape.vjp else random_vectors(tape.variables))
    assert len(tape.vjp(outputs, outputs)) == 2  # outputs that are named need no loss


# What is recorded


def test_threads_record_on_their_own_tapes():
    model = tf_kfgn.enable_curvature(mlp([6, 4, 3], "tanh"))
    barrier, counts = threading.Barrier(2), {}

    def run(calls):
        with tf_kfgn.CurvatureTape() as tape:
            barrier.wait(timeout=30)  # both tapes are open
            for _ in range(calls):
                model(CATEGORICAL.x)
            barrier.wait(timeout=30)
        counts[calls] = len(tape.operations)

    threads = [threading.Thread(target=run, args=(calls,)) for calls in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {1: 3, 2: 6}


def test_the_innermost_tape_records_and_none_afterwards():
    model = tf_kfgn.enable_curvature(mlp([6, 3], None))
    with tf_kfgn.CurvatureTape() as outer:
        with pytest.raises(ZeroDivisionError), tf_kfgn.CurvatureTape() as inner:
            model(CATEGORICAL.x)
            raise ZeroDivisionError
        assert (len(outer.operations), len(inner.operations)) == (0, 1)
        model(CATEGORICAL.x)
    model(CATEGORICAL.x)
    assert (len(outer.operations), len(inner.operations)) == (1, 1)


def test_a_tape_changes_neither_outputs_nor_weights(problem):
    stock = problem.model()
    model = tf_kfgn.enable_curvature(problem.model())
    np.testing.assert_array_equal(model(problem.x), stock(problem.x))  # outside
    with tf_kfgn.CurvatureTape():
        np.testing.assert_array_equal(model(problem.x), stock(problem.x))
    for weight, stock_weight in zip(model.weights, stock.weights, strict=True):
        np.testing.assert_array_equal(weight, stock_weight)


def test_nothing_is_recorded_while_keras_infers_shapes():
    class Late(tf_kfgn.Model):
        def __init__(self):
            super().__init__()
            self.dense = tf_kfgn.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Late()
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(CATEGORICAL.x.astype("float32"))
    assert len(tape.operations) == 1
    assert tape.operations[0].output is outputs


# The loss after the pass


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    ("head", "loss", "rule"),
    [
        ("exponential", keras.losses.Poisson(dtype="float64"), Poisson),
        ("softmax", keras.losses.CategoricalCrossentropy(dtype="float64"), Categorical),
        ("sigmoid", keras.losses.BinaryCrossentropy(dtype="float64"), Bernoulli),
    ],
    ids=["exponential", "softmax", "sigmoid"],
)
def test_a_loss_that_is_watched_after_the_tape_has_the_rule_of_one_inside(head, loss, rule, graph):
    model = seeded(lambda: sequential((4,), dense(5, "tanh"), dense(3, head)))()
    tf_kfgn.enable_curvature(model)
    x = np.random.default_rng(0).normal(size=(7, 4))
    kinds = []

    def products(inside):
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(x)
            if inside:
                tape.watch_loss(loss, None, outputs)
        if not inside:
            tape.watch_loss(loss, None, outputs)
        kinds.append(type(tape.likelihoods[0]))
        return tape.gauss_newton_vector_product(random_vectors(model.trainable_variables))

    run = tf.function(products) if graph else products
    for before, after in zip(run(True), run(False), strict=True):
        np.testing.assert_array_equal(before, after)
    assert set(kinds) == {rule}


def test_the_tape_does_not_differentiate_a_loss_that_it_watches():
    _, tape, outputs = record(CATEGORICAL)
    assert tape.gradient(tape.likelihoods[0].mean_hessian(), outputs) is None


# Tapes in and out of functions


@pytest.fixture(scope="module")
def in_functions():
    model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    return model, tf.ones((3, 2)), tf.zeros((3, 1))


def updated(tape, model):
    optimizer = tf_kfgn.KFLR()
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables, tape=tape)
    return optimizer


def test_a_tape_of_a_function_that_has_ended_says_so(in_functions):
    model, x, y = in_functions
    tapes = []

    @tf.function
    def function(x):
        with tf_kfgn.CurvatureTape() as tape:
            tape.watch_loss("mse", y, model(x))
        tapes.append(tape)
        return x

    function(x)
    with pytest.raises(ValueError, match=r"inside a tf\.function that has ended"):
        updated(tapes[0], model)


def test_a_model_in_a_function_that_the_tape_is_outside_of_says_so(in_functions):
    model, x, _ = in_functions
    message = "Open the tape inside of that function"
    with pytest.raises(ValueError, match=message), tf_kfgn.CurvatureTape():
        tf.function(model)(x)


def test_a_function_that_was_traced_before_says_so(in_functions):
    model, x, y = in_functions
    function = tf.function(lambda x: model(x))
    function(x)
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss("mse", y, function(x))
    with pytest.raises(ValueError, match="one that was traced before records nothing"):
        updated(tape, model)


def test_a_reset_tape_starts_anew(in_functions):
    model, x, y = in_functions
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss("mse", y, model(x))
        tape.reset()
        tape.watch_loss("mse", y, model(x))
    assert len(tape.operations) == len(tape.watched_losses) == len(tape.models) == 1
    assert int(updated(tape, model).memory.scalars.factor_updates) == 1


def test_tapes_may_be_left_in_any_order(in_functions):
    model, x, _ = in_functions
    first, second = tf_kfgn.CurvatureTape(), tf_kfgn.CurvatureTape()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    model(x)
    assert active_tape() is second
    second.__exit__(None, None, None)
    assert active_tape() is None
    assert (len(first.operations), len(second.operations)) == (0, 1)
    first.__exit__(None, None, None)
