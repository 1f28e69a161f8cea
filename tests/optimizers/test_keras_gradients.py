"""The conventions of Keras' own optimizer tests: gradients, and what Keras does to the weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conventions import FIXED, assert_same, differ, eager, train, values
from updates import batches, recorded

import tf_kfgn

layers, schedules = tf_kfgn.layers, keras.optimizers.schedules


# Gradients


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("clipnorm", [[0.6, 0.8], [0.1, 0.0]]),
        ("clipvalue", [[1.0, 1.0], [0.1, 0.0]]),
        ("global_clipnorm", [[30 / 50.0001, 40 / 50.0001], [0.1 / 50.0001, 0.0]]),
    ],
)
def test_gradients_are_clipped_as_keras_clips_them(new, argument, expected):
    clipped = new(**{argument: 1.0})._clip_gradients(
        [tf.constant([30.0, 40.0], tf.float64), tf.constant([0.1, 0.0], tf.float64)]
    )
    for actual, wanted in zip(clipped, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda bound: tf_kfgn.KFRA(clipnorm=bound),
        lambda bound: tf_kfgn.KFLR(clipvalue=bound),
        lambda bound: tf_kfgn.KFAC(global_clipnorm=bound, seed=1),
    ],
    ids=["KFRA-clipnorm", "KFLR-clipvalue", "KFAC-global_clipnorm"],
)
def test_gradients_of_embeddings_are_clipped(optimizer, unbounded):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), keras.layers.Embedding(6, 2), keras.layers.Flatten()]
    )
    model.add(keras.layers.Dense(2))
    tf_kfgn.enable_curvature(model)
    start = model.get_weights()
    x, y = np.arange(12).reshape(4, 3) % 5, np.ones((4, 2))
    lengths = []
    for bound in (1e9, 1e-3):
        model.set_weights(start)
        model.compile(optimizer(bound), "mse", run_eagerly=True)
        model.train_on_batch(x, y)
        step = [a - b for a, b in zip(model.get_weights(), start, strict=True)]
        assert not step[0][5].any()  # a row that no example looks up
        lengths.append(np.linalg.norm(np.concatenate([piece.ravel() for piece in step])))
    assert 0 < lengths[1] < 0.1 * lengths[0]


def test_iterations_count_updates(new):
    model = eager(new())
    for number in range(3):
        assert int(model.optimizer.iterations) == number
        train(model, (number, number + 1))
    assert_same(model.get_weights(), new.plain()[0][3])


def test_iterations_count_accumulated_updates(new):
    model = eager(new(gradient_accumulation_steps=2))
    weights = model.get_weights()
    for number, updates in enumerate([0, 1, 1, 2], start=1):
        train(model, (number, number + 1))
        assert int(model.optimizer._iterations) == number
        assert int(model.optimizer.iterations) == updates
        moved = any(differ(model.get_weights(), weights))
        assert moved == (number % 2 == 0)
        weights = model.get_weights()


def test_no_gradient_at_all_is_refused(new):
    model = eager("sgd")
    [(x, y)] = batches(1)
    tape, _, pairs = recorded(model, x, y)
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        new().apply_gradients([(None, variable) for _, variable in pairs], tape=tape)


@pytest.mark.parametrize("missing", [(0, 1), (1,)], ids=["layer", "bias"])
def test_what_has_no_gradient_stays_with_a_warning(new, missing):
    model = train(eager(new()), (0, 1))
    [_, (x, y)] = batches(2)
    tape, _, pairs = recorded(model, x, y)
    weights = model.get_weights()
    some = [(None if i in missing else g, v) for i, (g, v) in enumerate(pairs)]
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.optimizer.apply_gradients(some, tape=tape)
    expected = [i not in missing for i in range(4)]
    assert differ(model.get_weights(), weights) == expected


def test_a_scaled_loss_makes_the_same_steps(new):
    scaled = new(loss_scale_factor=1000.0)
    assert scaled.scale_loss(1.0) == 1000.0
    model, (weights, dampings) = train(eager(scaled), (0, 3)), new.plain()
    assert_same(model.get_weights(), weights[3], rtol=1e-7)
    np.testing.assert_allclose(float(scaled.damping), dampings[3], rtol=1e-7)


# What Keras does to the weights besides


@pytest.mark.parametrize("by", ["var_names", "var_list"])
def test_what_is_excluded_does_not_decay(new, by):
    results = []
    for decay in (None, 0.1):
        optimizer = new(learning_rate=0.25, weight_decay=decay, **FIXED)
        model = eager(optimizer)
        biases = [layer.bias for layer in model.layers]
        optimizer.exclude_from_weight_decay(
            **{by: ["bias"] if by == "var_names" else [*biases, model.layers[1].kernel]}
        )
        start = model.get_weights()
        results.append(train(model, (0, 1)).get_weights())
    decays = [True, False, by == "var_names", False]
    for w, plain, decayed, wanted in zip(start, *results, decays, strict=True):
        expected = 0.25 * 0.1 * w if wanted else np.zeros_like(w)
        np.testing.assert_allclose(plain - decayed, expected, rtol=1e-6, atol=1e-12)


def test_the_moving_average_of_the_weights_is_kept_and_in_the_end_taken_over(new):
    optimizer, weights = new(use_ema=True, ema_momentum=0.9), new.plain()[0]
    model, average = eager(optimizer), weights[1]
    for number in range(3):
        train(model, (number, number + 1))
        if number:
            pairs = zip(average, weights[number + 1], strict=True)
            average = [0.9 * a + 0.1 * w for a, w in pairs]
        assert_same(values(optimizer._model_variables_moving_average), average, rtol=1e-12)
        assert_same(model.get_weights(), weights[number + 1])
    optimizer.finalize_variable_values(model.trainable_variables)
    assert_same(model.get_weights(), average, rtol=1e-12)


def test_fit_ends_with_the_moving_average(new):
    model = eager(new(use_ema=True, ema_momentum=0.9))
    x, y = (np.concatenate(pieces) for pieces in zip(*list(batches(2)), strict=True))
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    _, first, second, *_ = new.plain()[0]
    expected = [0.9 * a + 0.1 * b for a, b in zip(first, second, strict=True)]
    assert_same(model.get_weights(), expected, rtol=1e-12)


def test_the_moving_average_overwrites_the_weights_as_often_as_it_is_told(new):
    model = eager(new(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=2))
    _, first, second, third, *_ = new.plain()[0]
    assert_same(train(model, (0, 1)).get_weights(), first)
    average = [0.9 * a + 0.1 * b for a, b in zip(first, second, strict=True)]
    assert_same(train(model, (1, 2)).get_weights(), average, rtol=1e-12)
    assert all(differ(train(model, (2, 3)).get_weights(), third))


def test_constraints_hold_after_each_step(new):
    model, free = eager(new()), new.plain()[0][1]
    constraint = keras.constraints.MaxNorm(0.5)
    for layer in model.layers:
        layer.kernel.constraint = constraint
    bound = train(model, (0, 1)).get_weights()
    for index, (one, other) in enumerate(zip(bound, free, strict=True)):
        kernel = index % 2 == 0
        assert_same([one], [constraint(other).numpy() if kernel else other], rtol=1e-7)
        assert not kernel or not np.allclose(one, other)
    train(model, (1, 3))
    for layer in model.layers:
        assert np.all(np.linalg.norm(layer.kernel.numpy(), axis=0) < 0.5 + 1e-6)
