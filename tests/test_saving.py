"""Saved and loaded, training goes on as if it had never stopped."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn

generator = np.random.default_rng(0)
X = generator.normal(size=(10, 16, 5)).astype("float32")
Y = np.tanh(X[..., :2]) + 0.1
SETTINGS = {"factor_period": 2, "inverse_period": 3, "damping_period": 2}
OPTIMIZERS = {
    "kfra": lambda: tf_kfgn.KFRA(**SETTINGS),
    "kflr": lambda: tf_kfgn.KFLR(**SETTINGS, use_ema=True),
    "kfac": lambda: tf_kfgn.KFAC(**SETTINGS, num_samples=2),
    "kfac in bfloat16": lambda: tf_kfgn.KFAC(**SETTINGS, curvature_dtype="bfloat16"),
    "hessianfree": lambda: tf_kfgn.HessianFree(
        **SETTINGS, max_cg_iterations=3, preconditioner="kfac"
    ),
}


def sequential():
    return keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
    )


def functional():
    inputs = keras.Input((5,))
    hidden = keras.layers.LeakyReLU()(keras.layers.Dense(4)(inputs))
    return keras.Model(inputs, keras.layers.Dense(2)(hidden))


def made(optimizer, make=sequential, seed=0):
    keras.utils.set_random_seed(seed)
    model = tf_kfgn.enable_curvature(make())
    model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
    return model


def train(model, steps):
    for step in steps:
        model.train_on_batch(X[step], Y[step])
    return model


def state(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def assert_same(first, second):
    for one, other in zip(state(first), state(second), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("make", [sequential, functional])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_five_and_five_updates_through_a_file_are_ten(tmp_path, optimizer, make):
    whole = train(made(optimizer(), make), range(5))
    whole.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(whole)
    assert [type(a) for a in loaded.layers] == [type(a) for a in whole.layers]
    assert_same(loaded, whole)
    assert_same(train(loaded, range(5, 10)), train(whole, range(5, 10)))
    assert int(whole.optimizer.iterations) == 10


def test_five_and_five_updates_through_a_checkpoint_are_ten(tmp_path):
    whole = train(made(OPTIMIZERS["kfac"]()), range(5))
    seed = whole.optimizer.seed
    path = tf.train.Checkpoint(model=whole, optimizer=whole.optimizer).save(tmp_path / "point")
    other = made(tf_kfgn.KFAC(**SETTINGS, num_samples=2, seed=seed), seed=1)
    other.optimizer.build(other.trainable_variables)
    status = tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path)
    status.assert_existing_objects_matched()
    assert_same(other, whole)
    assert_same(train(other, range(5, 10)), train(whole, range(5, 10)))


def test_a_checkpoint_is_restored_when_the_optimizer_is_built_later(tmp_path):
    whole = train(made(OPTIMIZERS["kfra"]()), range(5))
    path = tf.train.Checkpoint(model=whole, optimizer=whole.optimizer).save(tmp_path / "point")
    other = made(OPTIMIZERS["kfra"](), seed=1)
    tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path)
    assert_same(train(other, range(5, 10)), train(whole, range(5, 10)))


def test_inverses_that_a_file_lacks_are_made_by_the_next_update():
    whole = train(made(tf_kfgn.KFAC(**SETTINGS, seed=0)), range(4))
    store: dict[str, np.ndarray] = {}
    whole.optimizer.save_own_variables(store)
    few = {name: value for name, value in store.items() if not name.endswith("inverse")}
    assert len(store) - len(few) == 4
    other = made(tf_kfgn.KFAC(**SETTINGS, seed=0))
    other.set_weights(whole.get_weights())
    other.optimizer.build(other.trainable_variables)
    other.optimizer.load_own_variables(few)
    scalars = other.optimizer.memory.scalars
    assert int(scalars.inverse_age) == 0
    assert int(scalars.factor_updates) == 2
    train(other, [4])
    assert int(scalars.inverse_age) == 1
    for new, fresh in zip(other.get_weights(), whole.get_weights(), strict=True):
        assert np.all(np.isfinite(new))
        assert np.any(new != fresh)


def test_the_test_notices_state_that_is_lost(tmp_path):
    whole = train(made(OPTIMIZERS["kfra"]()), range(5))
    other = made(OPTIMIZERS["kfra"]())
    other.set_weights(whole.get_weights())
    train(other, range(5, 10))
    train(whole, range(5, 10))
    assert not np.array_equal(other.get_weights()[0], whole.get_weights()[0])


def test_weights_alone_load_into_an_enabled_model(tmp_path):
    whole = train(made(OPTIMIZERS["kfra"]()), range(3))
    whole.save_weights(tmp_path / "model.weights.h5")
    other = made(OPTIMIZERS["kfra"](), seed=1)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(X[0], verbose=0), whole.predict(X[0], verbose=0))


def test_a_disabled_model_is_a_stock_file(tmp_path):
    model = train(made(OPTIMIZERS["kfra"]()), range(2))
    tf_kfgn.disable_curvature(model)
    model.compile(optimizer="sgd", loss="mse")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras.Sequential
    assert "tf_kfgn" not in str(keras.saving.serialize_keras_object(model))


@pytest.mark.parametrize(
    "optimizer",
    [
        tf_kfgn.KFRA(damping=0.1, min_damping=0.0, step_size=0.5, momentum=0.9, name="mine"),
        tf_kfgn.KFLR(learning_rate=0.5, damping_period=None, approximation="reduce"),
        tf_kfgn.KFAC(num_samples=3, seed=4, weight_decay=0.01, clipnorm=1.0),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_config_round_trip(optimizer):
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(config)
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()


def test_kfac_draws_its_seed_from_the_global_one():
    keras.utils.set_random_seed(1)
    first, other = tf_kfgn.KFAC().seed, tf_kfgn.KFAC().seed
    keras.utils.set_random_seed(1)
    assert tf_kfgn.KFAC().seed == first != other


@keras.saving.register_keras_serializable(package="test_saving")
class OfTheUser(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.head = keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)

    def call(self, x):
        return self.head(self.hidden(x))


def test_a_registered_subclass_that_was_saved_while_enabled_loads_as_itself(tmp_path):
    model = OfTheUser()
    x, y = np.ones((4, 2), "float32"), np.zeros((4, 1), "float32")
    model(x)
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.KFLR(), loss="mse")
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert type(loaded) is OfTheUser
    np.testing.assert_array_equal(loaded(x), model(x))
    tf_kfgn.enable_curvature(loaded)
    loaded.compile(optimizer=tf_kfgn.KFLR(), loss="mse")
    loaded.fit(x, y, verbose=0)
