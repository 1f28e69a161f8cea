"""What is kept of wide layers is always the mean gradient, preconditioned."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from updates import MSE, OPTIMIZERS, batches, joint_weights, made, recorded

import tf_kfgn
from tf_kfgn.blocks import thin_gradients
from tf_kfgn.blocks.kronecker import precondition
from tf_kfgn.optimizers import directions

MODES = {"graph": {}, "xla": {"jit_compile": True}, "eager": {"run_eagerly": True}}
EARLY = {"inverse_period": 4, "factor_period": 2}


@pytest.fixture
def wide(monkeypatch):
    """Every block is taken for wide, with batches of any size; how often thin matrices are used."""
    monkeypatch.setattr(thin_gradients, "LEAST_RANK", 0)
    monkeypatch.setattr(thin_gradients, "WORTHWHILE", 1e9)
    used = []

    def spied(state, gradient):
        used.append(gradient)
        return thin_gradients.precondition_thin(state, gradient)

    monkeypatch.setattr(directions, "precondition_thin", spied)
    return used


def assert_kept(optimizer):
    """P ḡ is what the present inverses make of the present ḡ, and not of half of it."""
    memory = optimizer.memory.read()
    assert [*memory.mean_directions] == [*range(len(optimizer.layout.blocks))]
    for place, kept in memory.mean_directions.items():
        block = optimizer.layout.blocks[place]
        expected = precondition(memory.blocks[place], block.join(memory.mean_gradient))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(kept, expected, rtol=1e-8, atol=1e-10 * scale)
        assert scale == 0 or not np.allclose(kept, 0.5 * expected, rtol=1e-3, atol=0)


def weights_after(optimizer, updates=14, **mode):
    model = made(optimizer, **mode)
    for x, y in batches(updates):
        model.train_on_batch(x, y)
    return joint_weights(model)


@pytest.mark.parametrize(
    ("optimizer", "mode"),
    [*((optimizer, "graph") for optimizer in OPTIMIZERS), (tf_kfgn.KFRA, "xla")],
)
def test_thin_matrices_change_no_update(optimizer, mode, wide):
    own = {**EARLY, "seed": 3} if optimizer is tf_kfgn.KFAC else EARLY
    actual = weights_after(optimizer(**own), **MODES[mode])
    assert wide
    thin_gradients.LEAST_RANK = np.inf
    wide.clear()
    expected = weights_after(optimizer(**own), **MODES[mode])
    assert not wide
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def test_without_averages_the_gradient_of_the_batch_is_thin(wide):
    actual = weights_after(tf_kfgn.KFRA(gradient_decay=0.0))
    assert wide
    thin_gradients.LEAST_RANK = np.inf
    expected = weights_after(tf_kfgn.KFRA(gradient_decay=0.0))
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_directions_belong_to_mean_gradients_after_every_update(mode, wide):
    model = made(tf_kfgn.KFRA(**EARLY), **MODES[mode])
    for number, (x, y) in enumerate(batches(16, size=8)):
        if number == 9:
            x = x * np.nan  # nothing is learnt of this one
        if number == 11:
            y = y + 30.0  # this one promises far more than the others
        size = 5 if number == 13 else 8
        model.train_on_batch(x[:size], y[:size])
        assert_kept(model.optimizer)
    assert int(model.optimizer.nonfinite_steps) == 1


def test_a_shortened_outlier_enters_both(wide):
    model = made(tf_kfgn.KFRA())
    for number, (x, y) in enumerate(batches(8, size=6)):
        if number == 7:
            scalars = model.optimizer.memory.scalars
            scalars.usual_promise.assign(1e-3 * scalars.usual_promise)
            before = [mean.numpy() for mean in model.optimizer.memory.mean_gradient]
        model.train_on_batch(x, y)
    assert_kept(model.optimizer)
    beta = 1 - 1 / float(scalars.noise_ratio)
    assert 0 < beta < 1 and any(np.abs(mean).max() > 0 for mean in before)


def test_a_batch_of_many_rows_takes_the_whole_gradient(wide, monkeypatch):
    monkeypatch.setattr(thin_gradients, "WORTHWHILE", 6)
    assert [int(thin_gradients.rank_that_pays(b)) for b in made_layout().blocks] == [18, 14, 10]
    model = made(tf_kfgn.KFRA())
    x, y = next(batches(1, size=40))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(12).repeat(3)  # 12, 12, 12, 4
    model.fit(data, verbose=0)
    assert wide  # in one branch of a condition
    assert_kept(model.optimizer)


def made_layout():
    model = made(tf_kfgn.KFRA())
    model.optimizer.build(model.trainable_variables)
    return model.optimizer.layout


def test_steps_without_a_tape_leave_the_directions_as_they_are(wide):
    model = made(tf_kfgn.KFRA())
    for x, y in batches(4):
        model.train_on_batch(x, y)
    [(x, y)] = batches(1, seed=3)
    _, _, pairs = recorded(model, x, y)
    model.optimizer.apply_gradients(pairs)
    assert_kept(model.optimizer)


@pytest.mark.parametrize(
    "arguments",
    [
        {"gradient_decay": 0.0},
        {"clipnorm": 1.0},
        {"clipvalue": 1.0},
        {"global_clipnorm": 1.0},
        {"gradient_accumulation_steps": 2},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_no_directions_are_kept_where_gradients_are_no_products(arguments, wide):
    model = made(tf_kfgn.KFRA(**arguments))
    model.optimizer.build(model.trainable_variables)
    assert model.optimizer.memory.mean_directions == {}
    for x, y in batches(4):
        model.train_on_batch(x, y)


def test_no_directions_are_kept_with_regularisers_or_narrow_layers(wide, monkeypatch):
    for l2, least in ((1e-3, 0), (0.0, 1e10)):
        monkeypatch.setattr(thin_gradients, "LEAST_RANK", least)
        model = made(tf_kfgn.KFRA(), l2)
        model.optimizer.build(model.trainable_variables)
        assert model.optimizer.memory.mean_directions == {}


def test_a_kernel_that_is_no_matrix_is_not_wide():
    """As many rows and columns as a dense layer that is."""
    kinds = {(576,): keras.layers.Dense(256), (8, 8, 64): keras.layers.Conv2D(256, 3)}
    wide = []
    for shape, layer in kinds.items():
        model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input(shape), layer]))
        optimizer = tf_kfgn.KFRA()
        optimizer.build(model.trainable_variables)
        assert optimizer.layout.blocks[0].factor_shapes == ((577, 577), (256, 256))
        wide.append([*optimizer.memory.mean_directions])
    assert wide == [[0], []]


def test_a_file_keeps_directions_and_an_older_one_has_them_made_anew(wide, tmp_path):
    model = made(tf_kfgn.KFRA(**EARLY))
    given = [*batches(11)]
    for x, y in given[:7]:
        model.train_on_batch(x, y)
    model.save_weights(tmp_path / "new.weights.h5")
    thin_gradients.LEAST_RANK = np.inf
    older = made(tf_kfgn.KFRA(**EARLY))
    older.optimizer.build(older.trainable_variables)
    older.load_weights(tmp_path / "new.weights.h5")
    older.save_weights(tmp_path / "older.weights.h5")
    thin_gradients.LEAST_RANK = 0
    for name in ("new", "older"):
        loaded = made(tf_kfgn.KFRA(**EARLY))
        loaded.optimizer.build(loaded.trainable_variables)
        loaded.load_weights(tmp_path / f"{name}.weights.h5")
        if name == "new":
            assert_kept(loaded.optimizer)
        for x, y in given[7:]:
            loaded.train_on_batch(x, y)
            assert_kept(loaded.optimizer)


def test_a_layer_frozen_since_keeps_both_together(wide):
    model = made(tf_kfgn.KFRA(**EARLY))
    for number, (x, y) in enumerate(batches(10)):
        if number == 5:
            model.layers[0].trainable = False
            model.compile(optimizer=model.optimizer, loss=MSE, jit_compile=False)
        model.train_on_batch(x, y)
        assert_kept(model.optimizer)


def test_default_widths_train_by_fit_with_thin_matrices(monkeypatch):
    """784-512 of keras.io's first example, in float32, without any threshold changed."""
    used = []

    def spied(state, gradient):
        used.append(gradient.rank)
        return thin_gradients.precondition_thin(state, gradient)

    monkeypatch.setattr(directions, "precondition_thin", spied)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((784,)), keras.layers.Dense(512, "relu"), keras.layers.Dense(10, "softmax")]
    )
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.KFAC(), loss="sparse_categorical_crossentropy")
    generator = np.random.default_rng(0)
    x, y = generator.random((96, 784), "float32"), generator.integers(0, 10, 96)
    history = model.fit(x, y, epochs=8, verbose=0).history["loss"]
    assert used == [32] and [*model.optimizer.memory.mean_directions] == [0]
    assert history[-1] < 0.5 * history[0]
    memory = model.optimizer.memory.read()
    block = model.optimizer.layout.blocks[0]
    expected = precondition(memory.blocks[0], block.join(memory.mean_gradient))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(memory.mean_directions[0], expected, atol=1e-4 * scale)
