"""The conventions of Keras' own optimizer tests: configurations, learning rate, damping, state."""

from __future__ import annotations

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from conventions import assert_same, differ, eager, state, train
from problems import MSE, mlp, seeded
from updates import batches

import tf_kfgn

layers, schedules = tf_kfgn.layers, keras.optimizers.schedules


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
