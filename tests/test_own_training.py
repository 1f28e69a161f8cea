"""Models with training code of their own: a step, a loss, state; and what refusals say."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn

generator = np.random.default_rng(0)
X = generator.normal(size=(16, 3)).astype("float32")
Y = generator.normal(size=(16, 2)).astype("float32")


class OwnStep(keras.Model):
    """The model of the Keras guide, as it stands there."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class MoreLogs(keras.Model):
    def train_step(self, data):
        return {**super().train_step(data), "more": 1.0}


class MoreLoss(keras.Model):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = keras.metrics.Mean(name="seen")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight)
        self.seen.update_state(loss)
        return loss


class Counter(keras.layers.Layer):
    """Counts its calls, in a variable of Keras and in one of TensorFlow."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.raw = tf.Variable(0.0, trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        self.raw.assign_add(1.0)
        return x


def model(cls=keras.Model, *layers, optimizer=None, loss="mse", eager=True):
    inputs = tensor = keras.Input((3,))
    for layer in (*layers, keras.layers.Dense(2)):
        tensor = layer(tensor)
    made = tf_kfgn.enable_curvature(cls(inputs, tensor))
    made.compile(optimizer or tf_kfgn.KFAC(seed=0), loss, run_eagerly=eager)
    return made


def test_a_step_of_ones_own_without_a_tape_says_what_to_write():
    with pytest.raises(ValueError, match=r"train_step.*CurvatureTape\(\) as tape.*watch_loss.*app"):
        model(OwnStep).fit(X, Y, verbose=0)


def test_super_is_the_step_with_curvature():
    made = model(MoreLogs)
    logs = made.train_on_batch(X, Y, return_dict=True)
    assert {"damping", "step_size", "loss", "more"} <= set(logs)
    assert int(made.optimizer.memory.scalars.factor_updates) == 1
    made.compile("sgd", "mse", run_eagerly=True)
    assert set(made.train_on_batch(X, Y, return_dict=True)) == {"loss", "more"}
    tf_kfgn.disable_curvature(made)
    assert type(made).__mro__[0] is MoreLogs


def test_after_disabling_the_old_optimizer_says_so():
    made = model()
    made.train_on_batch(X, Y)
    tf_kfgn.disable_curvature(made)
    with pytest.raises(ValueError, match=r"these variables record none.*dense.*another optimizer"):
        made.train_on_batch(X, Y)
    tf_kfgn.enable_curvature(made)
    made.train_on_batch(X, Y)


def test_gradients_without_a_tape_are_told_of_once(caplog):
    made = model()
    made.train_on_batch(X, Y)
    zeros = [tf.zeros(v.shape) for v in made.trainable_variables]
    for _ in range(2):
        made.optimizer.apply(zeros, made.trainable_variables)
    assert caplog.text.count("without the CurvatureTape") == 1


@pytest.mark.parametrize("period", [5, None])
def test_a_tape_without_an_objective_is_told_of_once(caplog, period):
    made = model(optimizer=tf_kfgn.KFAC(seed=0, damping_period=period))
    for _ in range(2):
        with tf_kfgn.CurvatureTape() as tape:
            outputs = made(X)
            loss = tf.reduce_mean((outputs - Y) ** 2)
            tape.watch_loss("mse", Y, outputs)
        gradients = tape.gradient(loss, made.trainable_variables)
        made.optimizer.apply(gradients, made.trainable_variables, tape=tape)
    assert caplog.text.count("no `objective`") == (0 if period is None else 1)


def test_an_optimizer_is_built_inside_a_function():
    made, optimizer = model(), tf_kfgn.KFAC(seed=0)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((made(X) - Y) ** 2)
        optimizer.apply(tape.gradient(loss, made.trainable_variables), made.trainable_variables)

    with pytest.raises(ValueError, match="no curvature yet"):
        step()


def test_the_comparison_leaves_no_trace():
    def state(optimizer):
        keras.utils.set_random_seed(0)
        counter, dense = Counter(), keras.layers.Dense(4)
        layers = [counter, keras.layers.SpectralNormalization(dense)]
        made = model(MoreLoss, *layers, optimizer=optimizer, eager=False)
        made.fit(X, Y, verbose=0)
        return [*made.non_trainable_variables, counter.raw, *made.seen.variables], optimizer

    ours, optimizer = state(tf_kfgn.KFAC(seed=0))
    assert int(optimizer.comparisons) == 1
    theirs, _ = state(keras.optimizers.SGD(0.0))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_a_replay_adds_to_the_losses_is_there_afterwards():
    dense = keras.layers.Dense(4, activity_regularizer="l2", kernel_regularizer="l2")
    made = model(keras.Model, dense)
    with tf_kfgn.CurvatureTape() as tape:
        made(X)
    expected = [float(value) for value in made.losses]
    with tape.replaying():
        made(X)
        inside = [float(value) for value in made.losses]
    assert len(expected) == 2
    assert inside == expected == [float(value) for value in made.losses]


@pytest.mark.parametrize("optimizer", [tf_kfgn.KFRA, tf_kfgn.KFAC, tf_kfgn.HessianFree])
def test_without_trainable_weights_fit_goes_on(optimizer):
    made = model(optimizer=optimizer())
    made.trainable = False
    made.compile(made.optimizer, "mse", run_eagerly=True)
    before = made.get_weights()
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        history = made.fit(X, Y, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    np.testing.assert_array_equal(before[0], made.get_weights()[0])


def test_a_refused_build_can_be_repeated():
    stock = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = tf_kfgn.KFAC()
    for _ in range(2):
        with pytest.raises(ValueError, match="record no curvature"):
            optimizer.build(stock.trainable_variables)
        with pytest.raises(ValueError, match="exists once the optimizer is built"):
            optimizer.progress()
    tf_kfgn.enable_curvature(stock)
    optimizer.build(stock.trainable_variables)
    assert float(optimizer.damping) == 0.0


def test_inputs_may_be_none():
    class Second(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs[1])

    made = Second()
    made([None, X])
    tf_kfgn.enable_curvature(made).compile(tf_kfgn.KFAC(seed=0), "mse", run_eagerly=True)
    first = made.train_on_batch([None, X], Y, return_dict=True)["loss"]
    assert made.train_on_batch([None, X], Y, return_dict=True)["loss"] < first


def test_one_tensor_has_two_names():
    inputs = keras.Input((3,))
    output = keras.layers.Dense(2, name="dense")(inputs)
    made = keras.Model(inputs, {"a": output, "b": output})
    losses = {"a": "mse", "b": "mse"}
    [block] = tf_kfgn.gauss_newton_blocks(made, X, losses).values()
    A, G = tf_kfgn.kronecker_factors(made, X, losses, "kfra")["dense"]
    np.testing.assert_allclose(np.kron(A, G), block, rtol=1e-5, atol=1e-6)


def test_an_optimizer_from_its_configuration_refuses_too():
    stock = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    stock.compile(tf_kfgn.KFAC.from_config(tf_kfgn.KFAC().get_config()), "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="record no curvature"):
        stock.train_on_batch(X, Y)


def test_a_failure_names_what_was_seen(caplog):
    made = model()
    made.fit(X, Y, batch_size=8, verbose=0)
    made.fit(X * np.nan, Y, batch_size=8, verbose=0)
    assert "The other batches had finite losses" in caplog.text
    caplog.clear()
    made = model()
    made.fit(X * np.nan, Y, batch_size=8, verbose=0)
    assert "No batch had a finite loss" in caplog.text
