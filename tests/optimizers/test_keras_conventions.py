"""The conventions of Keras' own optimizer tests (`keras/src/optimizers/*_test.py`), for ours."""

from __future__ import annotations

import copy
import functools
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from problems import MSE, mlp, seeded
from updates import WITH_HESSIAN_FREE, batches, recorded

import tf_kfgn

layers, schedules = tf_kfgn.layers, keras.optimizers.schedules

FIXED = {"damping": 0.3, "damping_period": None, "step_size": 0.5, "momentum": 0.0}
"""Settings by which the learning rate alone scales the step."""


SEARCH = {"damping": 1.0, "max_cg_iterations": 2}
"""Of HessianFree, which takes a whole step."""


@pytest.fixture(params=WITH_HESSIAN_FREE, ids=lambda optimizer: optimizer.__name__)
def new(request):
    """Makes one of the optimizers; KFAC with a seed."""

    def make(**arguments):
        if request.param is tf_kfgn.KFAC:
            arguments.setdefault("seed", 1)
        if request.param is tf_kfgn.HessianFree:
            given = {k: v for k, v in arguments.items() if k not in ("step_size", "momentum")}
            arguments = {**SEARCH, **given}
        return request.param(**arguments)

    make.optimizer = request.param
    make.plain = functools.partial(plain, request.param)
    return make


def eager(optimizer):
    """The model of all tests; a few steps without a graph cost less than tracing it."""
    model = tf_kfgn.enable_curvature(seeded(lambda: mlp([5, 4, 2], "tanh"))())
    model.compile(optimizer, MSE, run_eagerly=True)
    return model


def train(model, steps):
    for x, y in list(batches(6))[slice(*steps)]:
        model.train_on_batch(x, y)
    return model


@functools.cache
def plain(optimizer):
    """Weights and damping with default settings, before and after each of the first updates."""
    own = {tf_kfgn.KFAC: {"seed": 1}, tf_kfgn.HessianFree: SEARCH}
    model = eager(optimizer(**own.get(optimizer, {})))
    weights, dampings = [model.get_weights()], [0.0]
    for number in range(3):
        train(model, (number, number + 1))
        weights.append(model.get_weights())
        dampings.append(float(model.optimizer.damping))
    return weights, dampings


def values(variables):
    return [variable.numpy() for variable in variables]


def state(model):
    return values([*model.variables, *model.optimizer.variables])


def assert_same(first, second, rtol=0.0):
    for actual, expected in zip(first, second, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=0.0)


def differ(first, second):
    return [not np.array_equal(a, b) for a, b in zip(first, second, strict=True)]


# Configurations


def round_trip(instance):
    """What Keras' own tests check of every class: the same config and attributes again."""
    return (
        pytest.importorskip("keras.src.testing").TestCase().run_class_serialization_test(instance)
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"learning_rate": 0.5, "damping": 0.25, "clipnorm": 1.0, "use_ema": True, "name": "mine"},
        {"learning_rate": schedules.CosineDecay(0.5, 9), "gradient_accumulation_steps": 2},
        {"damping": schedules.ExponentialDecay(0.5, 9, 0.5), "approximation": {"a": "reduce"}},
    ],
    ids=["defaults", "numbers", "rate of a schedule", "damping of a schedule"],
)
def test_a_configuration_makes_the_same_optimizer_again(new, arguments):
    again = round_trip(new(**arguments))
    for name, value in arguments.items():
        if not isinstance(value, schedules.LearningRateSchedule):
            assert again.get_config()[name] == value


@pytest.mark.parametrize(
    "layer",
    [
        layers.Dense(3, "tanh", kernel_regularizer="l2"),
        layers.Conv2D(2, (3, 1), padding="same"),
        layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"),
        layers.MultiHeadAttention(2, 3, dropout=0.1),
        layers.BatchNormalization(momentum=0.5),
        layers.Embedding(4, 3, mask_zero=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_configuration_makes_the_same_layer_again(layer):
    assert type(round_trip(layer)) is type(layer)


def test_keras_finds_serializes_and_deserializes_the_optimizers(new):
    optimizer = new(damping=0.25)
    assert keras.optimizers.get(optimizer) is optimizer
    serialized = keras.optimizers.serialize(optimizer)
    assert serialized["registered_name"] == f"tf_kfgn>{type(optimizer).__name__}"
    for again in (
        keras.optimizers.deserialize(serialized),
        keras.optimizers.get(serialized),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer)),
    ):
        assert type(again) is type(optimizer)
        assert again.get_config() == optimizer.get_config()


def test_only_one_way_of_clipping_can_be_chosen(new):
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
        assert getattr(new(**{name: 0.1}), name) == 0.1
    for pair in (("clipnorm", "clipvalue"), ("clipnorm", "global_clipnorm")):
        with pytest.raises(ValueError, match="Only one of `clipnorm`, `clipvalue`"):
            new(**dict.fromkeys(pair, 0.1))


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


# Learning rate and damping


def test_a_schedule_a_callable_and_an_assignment_of_the_learning_rate_are_the_same(new):
    rates = [1.0, 1.0, 0.25]
    now = {"rate": 1.0}
    weights = []
    for rate in (schedules.PiecewiseConstantDecay([1], [1.0, 0.25]), lambda: now["rate"], 1.0):
        model = eager(new(learning_rate=rate))
        for number in range(3):
            now["rate"] = rates[number]
            if rate == 1.0:
                model.optimizer.learning_rate = rates[number]
            assert float(model.optimizer.learning_rate) == rates[number]
            train(model, (number, number + 1))
        weights.append(model.get_weights())
    assert_same(weights[1], weights[0], rtol=1e-12)
    assert_same(weights[2], weights[0], rtol=1e-12)
    assert all(differ(weights[0], new.plain()[0][3]))


def test_setting_the_learning_rate_to_a_schedule_untracks_its_variable(new):
    optimizer = new()
    assert len(optimizer.variables) == 2
    optimizer.learning_rate = schedules.PolynomialDecay(1.0, 4)
    assert len(optimizer.variables) == 1


def test_a_schedule_gives_the_damping_of_each_update(new, tmp_path):
    schedule = schedules.ExponentialDecay(0.5, 2, 0.5)
    model = eager(new(damping=schedule, damping_period=1))
    for number in range(4):
        train(model, (number, number + 1))
        expected = 0.5 * 0.5 ** (number / 2)
        np.testing.assert_allclose(float(model.optimizer.damping), expected, rtol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    train(loaded, (4, 5))
    np.testing.assert_allclose(float(loaded.optimizer.damping), 0.5 * 0.5**2, rtol=1e-6)


def test_a_constant_schedule_of_the_damping_makes_the_steps_of_a_fixed_one(new):
    # Where HessianFree compares, it may go back to an earlier iterate, or a longer way.
    same = {"damping_period": None} if new.optimizer is tf_kfgn.HessianFree else {}
    first, second = (schedules.PiecewiseConstantDecay([9], [v, 1.0]) for v in (0.25, 0.1))
    models = [
        eager(new(damping=first, **same)),
        eager(new(damping=second, min_damping=0.25, **same)),
        eager(new(damping=0.25, damping_period=None)),
    ]
    scheduled, at_the_floor, fixed = (train(model, (0, 2)).get_weights() for model in models)
    assert_same(scheduled, fixed, rtol=1e-9)
    assert float(models[1].optimizer.damping) == 0.25
    assert_same(at_the_floor, fixed, rtol=1e-9)
    assert all(differ(fixed, new.plain()[0][2]))


def test_a_callback_can_set_the_damping(new):
    model = eager(new(damping=0.5, damping_period=None))
    x, y = next(batches(1, size=32))
    seen = []

    def halve(epoch, logs):
        seen.append(logs["damping"])
        model.optimizer.damping = 0.5 * float(model.optimizer.damping)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=halve)
    model.fit(x, y, batch_size=16, epochs=2, callbacks=[callback], verbose=0)
    np.testing.assert_allclose([*seen, float(model.optimizer.damping)], [0.5, 0.25, 0.125])


# State


def test_weights_of_one_optimizer_can_be_set_on_another(new):
    first, second = train(eager(new()), (0, 2)), eager(new())
    with pytest.raises(ValueError, match="You are calling `set_weights"):
        second.optimizer.set_weights(first.optimizer.variables)
    second.set_weights(first.get_weights())
    second.optimizer.build(second.trainable_variables)
    second.optimizer.set_weights(first.optimizer.variables)
    assert_same(state(second), state(first))
    train(first, (2, 4)), train(second, (2, 4))
    assert_same(state(second), state(first))


def test_a_checkpoint_of_the_optimizer_alone_restores_it(new, tmp_path):
    first, second = train(eager(new()), (0, 2)), eager(new())
    second.set_weights(first.get_weights())
    path = tf.train.Checkpoint(optimizer=first.optimizer).save(tmp_path / "point")
    second.optimizer.build(second.trainable_variables)
    tf.train.Checkpoint(optimizer=second.optimizer).restore(path).assert_consumed()
    assert_same(state(second), state(first))
    train(first, (2, 4)), train(second, (2, 4))
    assert_same(state(second), state(first))


@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # as of any Keras optimizer
def test_a_copy_of_the_optimizer_alone_has_its_configuration_and_no_state(new):
    optimizer = new(damping=0.25, clipnorm=1.0)
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    train(eager(optimizer), (0, 1))
    copies += [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    for copied in copies:
        assert type(copied) is type(optimizer)
        assert copied.get_config() == optimizer.get_config()
        assert not copied.built
    train(eager(copies[-1]), (0, 1))


def test_a_copy_of_a_compiled_model_continues_training_as_it_does(new):
    model = train(eager(new()), (0, 2))
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    before = state(model)
    train(model, (2, 4))
    for copied in copies:
        assert type(copied) is type(model)
        assert_same(state(copied), before)
        assert_same(state(train(copied, (2, 4))), state(model))


def test_a_cloned_model_trains_once_it_is_enabled(new):
    stock = seeded(lambda: mlp([5, 4, 2], "tanh"))()
    functional = keras.Model(stock.inputs[0], stock.outputs[0])
    for model in (stock, functional):
        tf_kfgn.enable_curvature(model)
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        tf_kfgn.enable_curvature(clone)
        assert type(clone) is type(model)
        clone.compile(new(), MSE, run_eagerly=True)
        assert_same(train(clone, (0, 2)).get_weights(), new.plain()[0][2])
