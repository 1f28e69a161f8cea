"""The recorded pass: its products against automatic differentiation, and its replay."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import gauss_newton
from problems import Problem, mlp, problem, reference

import tf_kfgn

MODES = ["eager", "graph", "xla"]


def compiled(function, mode):
    if mode == "eager":
        return function
    return tf.function(function, jit_compile=mode == "xla")


def dropout_problem() -> Problem:
    def make():
        return keras.Sequential(
            [
                keras.Input((6,), dtype="float64"),
                keras.layers.Dense(5, "tanh", dtype="float64"),
                keras.layers.Dropout(0.5, dtype="float64"),
                keras.layers.Dense(4, dtype="float64"),
                keras.layers.Dropout(0.3, dtype="float64"),
                keras.layers.Dense(3, dtype="float64"),
            ]
        )

    return problem("dropout", make, keras.losses.MeanSquaredError(dtype="float64"))


PROBLEMS = [
    reference("mlp_categorical")[0],
    reference("mlp_gaussian")[0],
    reference("mlp_bernoulli")[0],
]


def random_vectors(variables, seed=3):
    generator = np.random.default_rng(seed)
    return [tf.constant(generator.normal(size=variable.shape)) for variable in variables]


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def record(problem, training=False):
    model = tf_kfgn.enable_curvature(problem.model())
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(problem.x, training=training)
        tape.watch_loss(problem.loss, problem.y, outputs)
    return model, tape, outputs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_jvp_equals_forward_mode(problem, mode):
    model = tf_kfgn.enable_curvature(problem.model())
    tangents = random_vectors(model.trainable_variables)

    def product():
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(problem.x)
            tape.watch_loss(problem.loss, problem.y, outputs)
        return tape.jvp(tangents)

    values = [variable.value for variable in model.trainable_variables]
    with tf.autodiff.ForwardAccumulator(values, tangents) as accumulator:
        outputs = model(problem.x)
    expected = accumulator.jvp(outputs)
    np.testing.assert_allclose(compiled(product, mode)(), expected, rtol=1e-9, atol=1e-12)


def test_jvp_of_unused_variables_is_that_of_the_others():
    _, tape, outputs = record(PROBLEMS[0])
    first = tape.variables[:2]
    partial = tape.jvp(random_vectors(tape.variables)[:2], outputs, first)
    padded = random_vectors(tape.variables)[:2] + [tf.zeros_like(v) for v in tape.variables[2:]]
    np.testing.assert_allclose(partial, tape.jvp(padded), rtol=1e-9)
    assert not np.allclose(partial, tape.jvp(random_vectors(tape.variables)))


def test_variables_that_the_outputs_do_not_use_get_zeros():
    model, tape, outputs = record(PROBLEMS[0])
    stranger = mlp([2, 2], None).trainable_variables
    products = tape.vjp(tf.ones_like(outputs), variables=[*model.trainable_variables, *stranger])
    np.testing.assert_array_equal(flat(products[-2:]), 0)
    assert np.any(flat(products[:-2]) != 0)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_vjp_equals_the_gradient(problem):
    model, tape, outputs = record(problem)
    cotangents = tf.constant(np.random.default_rng(0).normal(size=outputs.shape))
    with tf.GradientTape() as plain:
        again = model(problem.x)
    expected = plain.gradient(again, model.trainable_variables, output_gradients=cotangents)
    np.testing.assert_allclose(flat(tape.vjp(cotangents)), flat(expected), rtol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_gauss_newton_product_equals_the_dense_matrix(problem, mode):
    model = tf_kfgn.enable_curvature(problem.model())
    vectors = random_vectors(model.trainable_variables)

    def product():
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(problem.x)
            tape.watch_loss(problem.loss, problem.y, outputs)
        return tape.gauss_newton_vector_product(vectors)

    dense = gauss_newton(model, problem.x, problem.y, problem.loss, model.trainable_variables)
    expected = dense @ flat(vectors)
    np.testing.assert_allclose(flat(compiled(product, mode)()), expected, rtol=1e-9, atol=1e-14)
    assert not np.allclose(2 * dense @ flat(vectors), expected)


def test_products_use_the_mask_of_the_recorded_pass():
    model, tape, outputs = record(dropout_problem(), training=True)
    tangents = random_vectors(model.trainable_variables)
    step = 1e-6
    before = [variable.numpy() for variable in model.trainable_variables]

    def moved(sign):
        for variable, value, tangent in zip(
            model.trainable_variables, before, tangents, strict=True
        ):
            variable.assign(value + sign * step * tangent.numpy())
        with tape.replaying():
            return model(tape_inputs, training=True).numpy()

    tape_inputs = dropout_problem().x
    central = (moved(1) - moved(-1)) / (2 * step)
    np.testing.assert_allclose(tape.jvp(tangents), central, rtol=1e-6, atol=1e-8)
    assert np.any(outputs.numpy() != model(tape_inputs, training=True).numpy())


def test_replay_repeats_outputs_and_loss_and_draws_nothing():
    problem = dropout_problem()
    model, tape, outputs = record(problem, training=True)
    with tape.replaying():
        again = model(problem.x, training=True)
    np.testing.assert_array_equal(again, outputs)
    np.testing.assert_allclose(
        tape.loss_of(again), problem.loss(problem.y, outputs), rtol=1e-12
    )
    keras.utils.set_random_seed(5)
    with tf_kfgn.CurvatureTape() as first:
        model(problem.x, training=True)
    with first.replaying():
        model(problem.x, training=True)
    after_replay = model(problem.x, training=True)
    seed = model.layers[1].seed_generator.state.numpy()
    assert seed[1] >= 3  # recorded, not replayed, and called: the replay advanced nothing
    assert not np.allclose(after_replay, again)


def test_replaying_once_too_often_is_refused():
    problem = dropout_problem()
    model, tape, _ = record(problem, training=True)
    with tape.replaying():
        model(problem.x, training=True)
        with pytest.raises(RuntimeError, match="recorded 1 times"):
            model(problem.x, training=True)


def test_a_replay_is_over_after_its_context():
    problem = dropout_problem()
    model, tape, outputs = record(problem, training=True)
    with tape.replaying():
        pass
    assert np.any(model(problem.x, training=True).numpy() != outputs.numpy())


def test_variables_come_in_the_order_of_the_model():
    model, tape, _ = record(PROBLEMS[0])
    assert [v.path for v in tape.variables] == [v.path for v in model.trainable_variables]


def test_a_wrong_number_of_tangents_is_refused():
    _, tape, _ = record(PROBLEMS[0])
    with pytest.raises(ValueError, match="one tensor for each of the 6 variables"):
        tape.jvp(random_vectors(tape.variables)[:-1])


def test_without_a_watched_loss_products_say_what_to_call():
    model = tf_kfgn.enable_curvature(mlp([6, 3], None))
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(PROBLEMS[0].x)
    with pytest.raises(ValueError, match="watch_loss"):
        tape.vjp(outputs)
    with pytest.raises(ValueError, match="watch_loss"):
        tape.gauss_newton_vector_product(random_vectors(tape.variables))


def test_threads_record_on_their_own_tapes():
    model = tf_kfgn.enable_curvature(mlp([6, 4, 3], "tanh"))
    counts = {}

    def run(calls):
        with tf_kfgn.CurvatureTape() as tape:
            for _ in range(calls):
                model(PROBLEMS[0].x)
        counts[calls] = len(tape.operations)


    threads = [threading.Thread(target=run, args=(calls,)) for calls in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {1: 3, 2: 6}


def test_nothing_is_recorded_while_keras_infers_shapes():
    class Late(tf_kfgn.Model):
        def __init__(self):
            super().__init__()
            self.dense = tf_kfgn.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Late()
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(PROBLEMS[0].x.astype("float32"))
    assert len(tape.operations) == 1
    assert tape.operations[0].output is outputs
