"""Models with recurrent layers: both directions, states, files, training."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import wrong
from problems import dense, seeded

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.layers.opaque import Opaque
from tf_kfgn.operations.marks import matrix_of
from tf_kfgn.optimizers import gauss_newton_of

N, T, F, U = 3, 4, 3, 2
TOLERANCE = {"rtol": 1e-6, "atol": 1e-12}
CELLS = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)
OPTIMIZERS = (tf_kfgn.KFRA, tf_kfgn.KFLR, tf_kfgn.KFAC)
WITH_HESSIAN_FREE = (*OPTIMIZERS, functools.partial(tf_kfgn.HessianFree, max_cg_iterations=3))
NAMES = ("KFRA", "KFLR", "KFAC", "HessianFree")
PARTS = ["kernel", "recurrent_kernel"]


def sequences(seed=2, count=N, length=T):
    return np.random.default_rng(seed).normal(size=(count, length, F))


def functional(*given, shape=(T, F), batch_size=None):
    """A model of layers one after the other, a dense one at the end."""

    def make():
        inputs = h = keras.Input(shape, batch_size=batch_size, dtype="float64")
        for layer in given:
            h = layer(h)
        found = keras.tree.flatten(h)
        if len(found) > 1:
            flat = [keras.layers.Flatten(dtype="float64")(tensor) for tensor in found]
            h = keras.layers.Concatenate(dtype="float64")(flat)
        return keras.Model(inputs, dense(2, name="head")(h))

    return seeded(make)()


BOTH = [
    (keras.layers.LSTM, {}, {}),
    (keras.layers.GRU, {"return_sequences": True}, {"merge_mode": "sum"}),
    (keras.layers.SimpleRNN, {"return_sequences": True}, {"merge_mode": "mul"}),
    (keras.layers.LSTM, {"return_sequences": True, "return_state": True}, {"merge_mode": "ave"}),
    (keras.layers.GRU, {"return_sequences": True}, {"merge_mode": None}),
    (keras.layers.LSTM, {"return_state": True, "dropout": 0.3}, {"merge_mode": None}),
]


@pytest.fixture(params=BOTH, ids=lambda both: f"{both[0].__name__} {both[1]} {both[2]}")
def both(request):
    cls, options, merging = request.param

    def make(wrapper=keras.layers.Bidirectional):
        keras.utils.set_random_seed(0)
        layer = cls(U, dtype="float64", seed=1, **options)
        return wrapper(layer, dtype="float64", name="both", **merging)

    return make


def assert_close(actual, expected):
    """To the last bits: the recorded loop adds in another order."""
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("masked", [False, True])
def test_both_directions_compute_what_the_stock_layer_computes(both, masked):
    x = tf.constant(sequences())
    mask = tf.constant([[1, 1, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0]]) > 0 if masked else None
    stock, recording = both(), both(layers.Bidirectional)
    expected = stock(x, mask=mask, training=True)
    recording.build(x.shape)
    recording.set_weights(stock.get_weights())
    with tf_kfgn.CurvatureTape() as tape:
        outputs = recording(x, mask=mask, training=True)
    assert [type(layer).__name__ for layer in (recording.forward_layer, recording.backward_layer)]
    assert isinstance(recording.forward_layer, layers.Recording)
    keras.tree.map_structure(assert_close, outputs, expected)
    names = {op.matrix.name for op in tape.operations if hasattr(op, "matrix")}
    ways = ("forward", "backward")
    assert names == {f"both/{way}/{part}" for way in ways for part in PARTS}


def test_both_directions_carry_averages_exactly_for_one_example(both):
    model = functional(dense(3, "tanh", name="first"), both())
    x = sequences()
    for batch, exact in ((x[:1], True), (x, False)):
        kfra, kflr = (
            tf_kfgn.kronecker_factors(model, batch, "mse", method) for method in ("kfra", "kflr")
        )
        assert set(kfra) == set(kflr)
        if exact:
            for name in kfra:
                np.testing.assert_allclose(kfra[name].G, kflr[name].G, **TOLERANCE)
        else:
            assert wrong(kfra["first"].G, kflr["first"].G, by=1e-4)


def test_both_directions_are_enabled_and_disabled(both, tmp_path):
    model = functional(both())
    x = sequences()
    before = model.predict(x, verbose=0)
    stock = [type(layer) for layer in model._flatten_layers()]
    tf_kfgn.enable_curvature(model, strict=True)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("both")) is layers.Bidirectional
    kernel = loaded.get_layer("both").backward_layer.cell.kernel
    assert matrix_of(kernel).name == "both/backward/kernel"
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), before)
    tf_kfgn.disable_curvature(model)
    assert [type(layer) for layer in model._flatten_layers()] == stock
    assert all(matrix_of(variable) is None for variable in model.variables)


@pytest.mark.parametrize("cls", CELLS)
def test_dropout_is_replayed(cls):
    model = functional(cls(U, dtype="float64", dropout=0.5, recurrent_dropout=0.5))
    tf_kfgn.enable_curvature(model)
    x = sequences()
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(x, training=True)
    with tape.replaying():
        assert_close(model(x, training=True), outputs)
    assert wrong(model(x, training=True), outputs)


@pytest.mark.parametrize("cls", CELLS)
def test_a_replay_starts_from_the_recorded_states_and_keeps_the_present(cls):
    layer = cls(U, dtype="float64", stateful=True)
    model = functional(layer, batch_size=N)
    tf_kfgn.enable_curvature(model)
    x = sequences()
    model(x)
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(x)
    states = [np.array(state) for state in layer.states]
    for _ in range(2):
        with tape.replaying():
            assert_close(model(x), outputs)
        for state, value in zip(layer.states, states, strict=True):
            np.testing.assert_array_equal(state, value)
    assert wrong(model(x), outputs, by=1e-6)


@pytest.mark.parametrize("optimizer_class", WITH_HESSIAN_FREE, ids=NAMES)
def test_an_update_moves_the_states_once(optimizer_class):
    """The comparisons of an update call the model again."""
    cls = CELLS[WITH_HESSIAN_FREE.index(optimizer_class) % 3]

    def trained(optimizer):
        model = functional(cls(U, dtype="float64", stateful=True, name="rnn"), batch_size=N)
        if not isinstance(optimizer, str):
            tf_kfgn.enable_curvature(model)
        model.compile(optimizer=optimizer, loss="mse")
        model.train_on_batch(sequences(), np.zeros((N, 2)))
        return [np.array(state) for state in model.get_layer("rnn").states]

    ours, stock = trained(optimizer_class(damping_period=1)), trained("sgd")
    for state, value in zip(ours, stock, strict=True):
        np.testing.assert_allclose(state, value, rtol=1e-12)


def test_initial_states_get_their_averages():
    """An encoder hands its states to a decoder."""

    def make():
        inputs = keras.Input((T, F), dtype="float64")
        others = keras.Input((T, F), dtype="float64")
        encoder = keras.layers.LSTM(U, dtype="float64", return_state=True, name="encoder")
        _, *states = encoder(inputs)
        decoder = keras.layers.LSTM(U, dtype="float64", return_sequences=True, name="decoder")
        return keras.Model([inputs, others], dense(2)(decoder(others, initial_state=states)))

    model = seeded(make)()
    x = [sequences(0), sequences(1)]
    first = [tensor[:1] for tensor in x]
    for batch, exact in ((first, True), (x, False)):
        kfra, kflr = (
            tf_kfgn.kronecker_factors(model, batch, "mse", method) for method in ("kfra", "kflr")
        )
        if exact:
            for name in kfra:
                np.testing.assert_allclose(kfra[name].G, kflr[name].G, **TOLERANCE)
        else:
            assert wrong(kfra["encoder/kernel"].G, kflr["encoder/kernel"].G, by=1e-4)


@pytest.mark.parametrize("method", ["kflr", "kfra"])
def test_a_layer_that_is_called_twice_has_the_mean_of_its_calls(method):
    shared = keras.layers.GRU(U, dtype="float64", name="rnn")

    def make():
        inputs = [keras.Input((T, F), dtype="float64") for _ in range(2)]
        h = keras.layers.Concatenate(dtype="float64")([shared(x) for x in inputs])
        return keras.Model(inputs, dense(2, name="head")(h))

    model = seeded(make)()
    x = [sequences(0), sequences(1)]
    apart = {"approximation": "expand"}
    found = tf_kfgn.kronecker_factors(model, x, "mse", method, **apart)
    kernel, bias = model.get_layer("head").get_weights()
    total_A, total_G = 0, 0
    for place, tensor in enumerate(x):
        single = functional(shared)
        single.get_layer("head").set_weights([kernel[place * U : (place + 1) * U], bias])
        A, G = tf_kfgn.kronecker_factors(single, tensor, "mse", "kflr", **apart)["rnn/kernel"]
        total_A, total_G = total_A + A, total_G + G / 2
    np.testing.assert_allclose(found["rnn/kernel"].A, total_A, **TOLERANCE)
    np.testing.assert_allclose(found["rnn/kernel"].G, total_G, **TOLERANCE)


def test_the_summary_names_the_matrices():
    model = functional(
        keras.layers.Bidirectional(keras.layers.LSTM(U, return_sequences=True), name="both"),
        keras.layers.GRU(U, name="gru"),
    )
    rows = tf_kfgn.curvature_summary(model, verbose=False)
    ways = ("forward", "backward")
    expected = [f"both/{way}/{part}" for way in ways for part in PARTS]
    assert list(rows) == [*expected, *(f"gru/{part}" for part in PARTS), "head"]
    assert {row["kind"] for row in rows.values()} == {"Kronecker"}
    assert rows["gru/recurrent_kernel"]["A"] == (U + 1, U + 1)  # with a bias of its own
    assert rows["gru/recurrent_kernel"]["G"] == (3 * U, 3 * U)
    assert rows["both/forward/recurrent_kernel"]["A"] == (U, U)
    assert rows["both/forward/kernel"]["layer"] == "LSTM"
    assert rows["gru/kernel"]["note"] == f"{T} positions: correlated"
    assert all(row["work"] > 0 for row in rows.values())


def looped(*cells):
    """Cells in a layer that knows nothing of them."""
    given = [cell(U, dtype="float64") for cell in cells]
    cell = given[0] if len(given) == 1 else keras.layers.StackedRNNCells(given, dtype="float64")
    return keras.layers.RNN(cell, dtype="float64")


GRU_CELL, LSTM_CELL = keras.layers.GRUCell, keras.layers.LSTMCell
OTHERS = {
    "a cell in a layer": lambda: looped(LSTM_CELL),
    "stacked cells": lambda: looped(GRU_CELL, LSTM_CELL),
    "both directions of a cell": lambda: keras.layers.Bidirectional(
        looped(GRU_CELL), dtype="float64"
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_cells_keep_diagonal_blocks(name):
    model = functional(OTHERS[name]())
    rows = tf_kfgn.curvature_summary(model, verbose=False)
    fallen = {key for key, row in rows.items() if row["kind"] == "diagonal"}
    assert len(fallen) == len(model.trainable_variables) - 2
    assert all("falls back: the layer has no matrix" in rows[key]["note"] for key in fallen)
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse")
    x, y = sequences(), np.ones((N, 2))
    losses = [model.train_on_batch(x, y) for _ in range(4)]
    assert losses[-1] < losses[0]


def test_a_subclass_of_a_users_own_keeps_diagonal_blocks():
    class Own(keras.layers.LSTM):
        pass

    model = tf_kfgn.enable_curvature(functional(Own(U, dtype="float64", name="own")))
    assert isinstance(model.get_layer("own"), Opaque)
    assert matrix_of(model.get_layer("own").cell.kernel) is None


def small(cls, **options):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((T, F)),
            cls(3, **options),
            keras.layers.Dense(2),
        ]
    )


@pytest.mark.parametrize("optimizer", WITH_HESSIAN_FREE, ids=NAMES)
def test_recurrent_layers_train_alike_in_a_graph_and_eagerly(optimizer):
    """Each cell with one of the optimizers; XLA takes long to compile loops inside of loops."""
    cls = CELLS[WITH_HESSIAN_FREE.index(optimizer) % 3]
    x, y = np.float32(sequences(count=8)), np.float32(sequences(4, 8)[:, 0, :2])
    found = []
    ways = [{}, {"run_eagerly": True}, *[{"jit_compile": True}] * (optimizer is tf_kfgn.KFAC)]
    for options in ways:
        model = small(cls)
        tf_kfgn.enable_curvature(model, strict=True)
        model.compile(optimizer=optimizer(), loss="mse", **{"jit_compile": False, **options})
        found.append([model.train_on_batch(x, y) for _ in range(3)])
    assert found[0][-1] < found[0][0]
    for losses in found[1:]:
        np.testing.assert_allclose(losses, found[0], rtol=1e-3)


@pytest.mark.parametrize("options", [{}, {"reset_after": False}])
def test_a_file_continues_training(options, tmp_path):
    x, y = np.float32(sequences(count=8)), np.float32(sequences(4, 8)[:, 0, :2])
    model = small(keras.layers.GRU, seed=3, **options)
    tf_kfgn.enable_curvature(model, strict=True)
    model.compile(optimizer=tf_kfgn.KFAC(), loss="mse")
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    names = [block.name for block in gauss_newton_of(loaded.optimizer).layout.blocks]
    assert names == [block.name for block in gauss_newton_of(model.optimizer).layout.blocks]
    assert sum("recurrent_kernel" in name for name in names) == 1
    for _ in range(2):
        assert loaded.train_on_batch(x, y) == model.train_on_batch(x, y)


def test_neighbours_that_repeat_over_time_have_blocks_too():
    model = functional(
        keras.layers.TimeDistributed(dense(3, "tanh", name="first"), dtype="float64"),
        keras.layers.GRU(U, dtype="float64", return_sequences=True, name="rnn"),
        keras.layers.TimeDistributed(dense(3, "tanh", name="last"), dtype="float64"),
    )
    found = tf_kfgn.kronecker_factors(model, sequences(), "mse", "kflr")
    names = ["first", "rnn/kernel", "rnn/recurrent_kernel", "last", "head"]
    assert list(found) == names
    assert all(np.trace(G) > 0 for _, G in found.values())


def test_sequences_of_any_length_are_trained():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, F)), keras.layers.GRU(3), keras.layers.Dense(2)])
    tf_kfgn.enable_curvature(model, strict=True)
    model.compile(optimizer=tf_kfgn.KFAC(), loss="mse")
    batches = [
        (np.float32(sequences(0, 4, length)), np.float32(sequences(1, 4)[:, 0, :2]))
        for length in (5, 3)
    ] * 3
    data = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature=(tf.TensorSpec((None, None, F)), tf.TensorSpec((None, 2))),
    )
    losses = model.fit(data, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_frozen_recurrent_kernel_leaves_a_bias_of_both_a_diagonal_block():
    model = functional(keras.layers.GRU(U, dtype="float64", name="rnn"))
    model.get_layer("rnn").cell.recurrent_kernel.trainable = False
    rows = tf_kfgn.curvature_summary(model, verbose=False)
    assert rows["rnn/kernel"]["A"] == (F, F)
    [diagonal] = [name for name, row in rows.items() if row["kind"] == "diagonal"]
    assert diagonal.endswith("bias")
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.KFLR(), loss="mse")
    losses = [model.train_on_batch(sequences(), np.ones((N, 2))) for _ in range(3)]
    assert losses[-1] < losses[0]


class Diagonal(keras.layers.LSTM):
    """Without a recording class, its blocks are diagonal."""


def adding(count, length, generator):
    """Sequences of numbers, two of which are marked: their sum is the target."""
    numbers = generator.uniform(size=(count, length))
    marks = np.zeros((count, length))
    marks[np.arange(count), generator.integers(0, length // 2, count)] = 1
    marks[np.arange(count), generator.integers(length // 2, length, count)] = 1
    return np.float32(np.stack([numbers, marks], axis=2)), np.float32(numbers * marks).sum(1)


def test_an_lstm_learns_to_add_with_kronecker_blocks_and_not_with_diagonal_ones():
    x, y = adding(2000, 20, np.random.default_rng(0))
    reached = {}
    for cls in (keras.layers.LSTM, Diagonal):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((20, 2)), cls(24), keras.layers.Dense(1)])
        tf_kfgn.enable_curvature(model)
        model.compile(optimizer=tf_kfgn.KFAC(), loss="mse")
        history = model.fit(x, y, batch_size=500, epochs=30, verbose=0, shuffle=False)
        reached[cls] = history.history["loss"][-1]
    assert reached[keras.layers.LSTM] < 0.2 * reached[Diagonal]
