"""Recurrent layers: their values, and their factors against steps with weights of their own."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import gauss_newton, wrong
from problems import MSE, dense, seeded
from steps import Steps, factors, weights_of

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.operations.loop import LoopOperation, StepOperation
from tf_kfgn.operations.marks import matrix_of
from tf_kfgn.recording.replay import SEEDS, generators_of
from tf_kfgn.swapping.swap import stock_class

N, T, F, U = 3, 4, 3, 2
TOLERANCE = {"rtol": 1e-6, "atol": 1e-12}
MASK = np.array([[1, 1, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0]], bool)
CELLS = (layers.SimpleRNN, layers.LSTM, layers.GRU)
OPTIONS = [
    {},
    {"return_sequences": True},
    {"go_backwards": True, "return_sequences": True},
    {"unroll": True},
    {"unroll": True, "go_backwards": True, "return_sequences": True, "zero_output_for_mask": True},
    {"return_state": True},
    {"return_sequences": True, "return_state": True},
    {"zero_output_for_mask": True, "return_sequences": True},
    {"use_bias": False},
    {"activation": "relu"},
    {"activation": None},
    {"activation": "softmax", "return_sequences": True},
    {"dropout": 0.4},
    {"recurrent_dropout": 0.4},
    {"dropout": 0.4, "recurrent_dropout": 0.4, "return_sequences": True},
    {"stateful": True},
]
GATED = [{"implementation": 1}, {"recurrent_activation": "hard_sigmoid"}]
BEFORE = [
    {"reset_after": False},
    {"reset_after": False, "implementation": 1, "use_bias": False},
    {"reset_after": False, "dropout": 0.4, "recurrent_dropout": 0.4},
]
CASES = [
    *((cls, options) for cls in CELLS for options in OPTIONS),
    *((cls, options) for cls in CELLS[1:] for options in GATED),
    (layers.LSTM, {"unit_forget_bias": False}),
    *((layers.GRU, options) for options in BEFORE),
]
IDS = [f"{cls.__name__} {options}" for cls, options in CASES]


def made(case, cls=None):
    """A layer with random weights, and its input."""
    recording, options = case
    layer = (cls or recording)(U, seed=1, dtype="float64", name="rnn", **options)
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(size=(N, T, F)))
    layer.build(x.shape)
    for variable in layer.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    for seeds in generators_of(layer):
        SEEDS.swap(seeds)
    return layer, x


def states_of(layer, seed=3):
    generator = np.random.default_rng(seed)
    return [tf.constant(generator.normal(size=(N, U))) for _ in layer.state_size]


def calls(layer):
    """Arguments of calls: with a mask, with initial states, and without."""
    return [
        {"training": True},
        {"training": True, "mask": tf.constant(MASK)},
        {"training": True, "mask": tf.constant(MASK), "initial_state": states_of(layer)},
    ]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_it_computes_what_the_stock_layer_computes(case):
    (layer, x), (stock, _) = made(case), made(case, stock_class(case[0]))
    for call in calls(layer):
        with tf_kfgn.CurvatureTape() as tape:
            outputs = tf.nest.flatten(layer(x, **call))
        assert isinstance(tape.operations[2], LoopOperation)
        for actual, value in zip(outputs, tf.nest.flatten(stock(x, **call)), strict=True):
            np.testing.assert_allclose(actual, value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", CASES[:1] + CASES[15:16] + CASES[30:31] + CASES[-3:-2])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_graph_computes_it_to_the_last_bits(case, jit_compile):
    """TensorFlow may join operations otherwise where there is one more."""
    (layer, x), (stock, _) = made(case), made(case, stock_class(case[0]))

    def recorded(x):
        with tf_kfgn.CurvatureTape() as tape:
            output = layer(x)
        return output, [
            operation.cotangent_rows(zeros_of(operation)) for operation in matrices(tape)
        ]

    output, _ = tf.function(recorded, jit_compile=jit_compile)(x)
    np.testing.assert_allclose(output, stock(x), rtol=1e-13)


def zeros_of(operation):
    return tf.zeros_like(operation.output)


def matrices(tape):
    return [operation for operation in tape.operations if isinstance(operation, StepOperation)]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_gradients_are_the_rows_times_the_cotangents(case):
    """Dropout masks, skipped steps and gates that meet rows of their own are all in the rows."""
    layer, x = made(case)
    for call in calls(layer):
        with tf_kfgn.CurvatureTape() as tape:
            outputs = tf.nest.flatten(layer(x, **call))
            loss = tf.add_n([tf.reduce_sum(tf.sin(3 * output)) for output in outputs])
        for operation in matrices(tape):
            matrix = operation.matrix
            variables = [operation.kernel] + [operation.bias] * (operation.bias is not None)
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            rows = operation.input_rows()
            columns = operation.cotangent_rows(tape.gradient(loss, operation.output))
            if operation.used is not None:
                np.testing.assert_array_equal(operation.used, np.float64(MASK))
                np.testing.assert_array_equal(columns[~MASK], np.zeros_like(columns[~MASK]))
            found = tf.einsum("nt...i,nt...o->...io", rows, columns)
            np.testing.assert_allclose(found, matrix.join(gradients), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_kernel_and_recurrent_kernel_are_matrices_that_hold_every_weight(case):
    layer, _ = made(case)
    cell = layer.cell
    assert matrix_of(cell.kernel).name == "rnn/kernel"
    assert matrix_of(cell.recurrent_kernel).name == "rnn/recurrent_kernel"
    found = [matrix_of(cell.kernel).join([cell.kernel.value])]
    found.append(matrix_of(cell.recurrent_kernel).join([cell.recurrent_kernel.value]))
    for variable, matrix in zip((cell.kernel, cell.recurrent_kernel), found, strict=True):
        [again] = matrix_of(variable).split(matrix, [variable.shape])
        np.testing.assert_array_equal(again, variable)


def model_of(case, length=T, head=None, **options):
    """A recurrent layer behind and before a dense one."""
    cls, own = case

    def make():
        inputs = keras.Input((length, F), dtype="float64")
        h = stock_class(cls)(U, dtype="float64", name="rnn", **{**own, **options})(inputs)
        return keras.Model(inputs, dense(2, head, name="head")(h))

    model = seeded(make)()
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    return model


PLAIN = [
    *((cls, {}) for cls in CELLS),
    (layers.LSTM, {"use_bias": False}),
    (layers.SimpleRNN, {"activation": None}),
    (layers.LSTM, {"go_backwards": True, "return_sequences": True}),
    (layers.GRU, {"implementation": 1}),
    (layers.GRU, {"unroll": True, "return_sequences": True}),
]
PLAIN_IDS = [f"{cls.__name__} {options}" for cls, options in PLAIN]


def stepped(model, x, mask=None):
    """The steps of each example, with the model's head."""
    layer, head = model.get_layer("rnn"), model.get_layer("head")

    def outputs(sequence):
        return head(sequence if layer.return_sequences else sequence[:, -1])

    masks = [None] * len(x) if mask is None else mask
    return [Steps(layer, row, outputs, mask=own) for row, own in zip(x, masks, strict=True)]


@pytest.mark.parametrize("how", ["expand", "reduce"])
@pytest.mark.parametrize("case", PLAIN, ids=PLAIN_IDS)
def test_factors_are_those_of_steps_with_weights_of_their_own(case, how):
    """Of KFLR; and of KFRA, since all that follows the loop is linear with squared error."""
    model = model_of(case)
    x = np.random.default_rng(2).normal(size=(N, T, F))
    examples = stepped(model, x)
    outputs = examples[0].jacobians[0].shape[0]
    curvature = 2 / outputs * np.eye(outputs)
    for method in ("kflr", "kfra"):
        found = tf_kfgn.kronecker_factors(model, x, "mse", method, approximation=how)
        for place, name in enumerate(("kernel", "recurrent_kernel")):
            bias = model.get_layer("rnn").cell.bias
            biased = bias is not None and (place == 0 or len(bias.shape) == 2)
            A, G = factors(examples, place, curvature, how, biased)
            np.testing.assert_allclose(found[f"rnn/{name}"].A, A, **TOLERANCE)
            np.testing.assert_allclose(found[f"rnn/{name}"].G, G, **TOLERANCE)
            other = "reduce" if how == "expand" else "expand"
            assert wrong(factors(examples, place, curvature, other, biased)[1], G)


@pytest.mark.parametrize("how", ["expand", "reduce"])
@pytest.mark.parametrize("cls", CELLS)
def test_masked_steps_do_not_count(cls, how):
    def make():
        inputs = keras.Input((T, F), dtype="float64")
        h = keras.layers.Masking(dtype="float64")(inputs)
        h = stock_class(cls)(U, dtype="float64", name="rnn")(h)
        return keras.Model(inputs, dense(2, name="head")(h))

    model = seeded(make)()
    x = np.random.default_rng(2).normal(size=(N, T, F)) * MASK[..., None]
    examples = stepped(model, x, MASK)
    for method in ("kflr", "kfra"):
        found = tf_kfgn.kronecker_factors(model, x, "mse", method, approximation=how)
        for place, name in enumerate(("kernel", "recurrent_kernel")):
            biased = place == 0 or cls is layers.GRU
            A, G = factors(examples, place, np.eye(2), how, biased)
            np.testing.assert_allclose(found[f"rnn/{name}"].A, A, **TOLERANCE)
            np.testing.assert_allclose(found[f"rnn/{name}"].G, G, **TOLERANCE)


@pytest.mark.parametrize("method", ["kflr", "kfra"])
@pytest.mark.parametrize("cls", CELLS)
def test_the_block_of_one_example_is_exact_for_one_step_and_wrong_for_several(cls, method):
    for length, exact in ((1, True), (T, False)):
        model = model_of((cls, {}), length)
        x = np.random.default_rng(2).normal(size=(1, length, F))
        blocks = tf_kfgn.gauss_newton_blocks(model, x, "mse")
        for name, (A, G) in tf_kfgn.kronecker_factors(model, x, "mse", method).items():
            if name.startswith("rnn"):
                product = np.kron(A, G)
                if exact:
                    np.testing.assert_allclose(product, blocks[name], **TOLERANCE)
                else:
                    assert wrong(product, blocks[name])


@pytest.mark.parametrize("place", ["kernel", "recurrent_kernel"])
def test_gates_that_meet_rows_of_their_own_have_exact_blocks_each(place):
    """A gated recurrent unit that resets before: one step from states that are not zero."""
    layer, x = made((layers.GRU, {"reset_after": False}))
    states = [state[:1] for state in states_of(layer)]
    with tf_kfgn.CurvatureTape() as tape:
        outputs = layer(x[:1, :1], initial_state=states)
        tape.watch_loss(MSE, None, outputs)
    seed = tf.constant([0, 0], tf.int64)
    found = {m.name: f for m, f in tf_kfgn.factors.KFLREstimator()(tape, seed).items()}
    A, G = found[f"rnn/{place}"]
    variable = getattr(layer.cell, place)
    with tf.GradientTape(persistent=True) as inner:
        output = layer(x[:1, :1], initial_state=states)[0]
    jacobian = np.array(inner.jacobian(output, variable.value, experimental_use_pfor=False))
    rows = variable.shape[0]
    for gate in range(3):
        own = jacobian[:, :, gate * U : (gate + 1) * U].reshape(U, -1)
        if place == "kernel":
            product = np.kron(A[:rows, :rows], G[gate * U :, gate * U :][:U, :U])
        else:
            product = np.kron(A[gate], G[gate])
        np.testing.assert_allclose(product, own.T @ own * 2 / U, **TOLERANCE)
        if place == "recurrent_kernel" and gate == 2:
            assert wrong(np.kron(A[0], G[gate]), own.T @ own * 2 / U)


@pytest.mark.parametrize("how", ["expand", "reduce"])
def test_kfra_is_kflr_where_it_must_be(how):
    def deep(activation, second):
        def make():
            inputs = keras.Input((T, F), dtype="float64")
            h = dense(3, activation)(inputs)
            h = keras.layers.SimpleRNN(
                U, activation, dtype="float64", return_sequences=True, name="first"
            )(h)
            return keras.Model(inputs, dense(2)(second(U, dtype="float64", name="second")(h)))

        return seeded(make)()

    def linear(units, **kwargs):
        return keras.layers.SimpleRNN(units, None, **kwargs)

    x = np.random.default_rng(2).normal(size=(N, T, F))
    cases = [
        (deep(None, linear), x, True),
        (deep("tanh", keras.layers.LSTM), x[:1], True),
        (deep("tanh", keras.layers.LSTM), x, False),
    ]
    for model, batch, exact in cases:
        kfra, kflr = (
            tf_kfgn.kronecker_factors(model, batch, "mse", method, approximation=how)
            for method in ("kfra", "kflr")
        )
        names = [name for name in kfra if not name.startswith("second")]
        for name in names:
            if exact:
                np.testing.assert_allclose(kfra[name].G, kflr[name].G, **TOLERANCE)
        if not exact:
            assert any(wrong(kfra[name].G, kflr[name].G) for name in names if "first" in name)


@pytest.mark.parametrize("case", PLAIN, ids=PLAIN_IDS)
def test_products_with_the_gauss_newton_matrix_are_exact(case):
    model = model_of(case)
    x = np.random.default_rng(2).normal(size=(N, T, F))
    y = np.zeros(model(x).shape)
    matrix = gauss_newton(model, x, y, MSE, model.trainable_variables)
    generator = np.random.default_rng(3)
    vectors = [generator.normal(size=v.shape) for v in model.trainable_variables]
    found = tf_kfgn.gauss_newton_vector_product(model, x, "mse", vectors)
    flat = np.concatenate([np.ravel(v) for v in found])
    expected = matrix @ np.concatenate([np.ravel(v) for v in vectors])
    np.testing.assert_allclose(flat, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("case", PLAIN[::2], ids=PLAIN_IDS[::2])
def test_exact_blocks_are_those_of_the_weights(case):
    model = model_of(case)
    x = np.random.default_rng(2).normal(size=(N, T, F))
    layer = model.get_layer("rnn")
    exact = gauss_newton(model, x, np.zeros(model(x).shape), MSE, weights_of(layer))
    found = tf_kfgn.gauss_newton_blocks(model, x, "mse")
    sizes = [int(np.prod(v.shape)) for v in weights_of(layer)]
    ends = np.cumsum([0, *sizes])
    kernel, recurrent, *bias = (list(range(a, b)) for a, b in itertools.pairwise(ends))
    columns = layer.cell.kernel.shape[1]
    both = [bias[0][:columns], bias[0][columns:]] if bias else [[], []]
    for name, places in (("kernel", kernel + both[0]), ("recurrent_kernel", recurrent + both[1])):
        expected = exact[np.ix_(places, places)]
        np.testing.assert_allclose(found[f"rnn/{name}"], expected, rtol=1e-6, atol=1e-10)
