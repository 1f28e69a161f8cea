"""enable_curvature and disable_curvature change classes and nothing else."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from problems import mlp

import tf_kfgn
from tf_kfgn import layers

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def functional():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, "relu", name="first")(inputs)
    hidden = keras.layers.Dropout(0.2)(hidden)
    return keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden))


def nested():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh")], name="inner")
    return keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2)])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def subclassed():
    model = Subclassed()
    model(X)
    return model


MODELS = {
    "sequential": lambda: keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "elu"), keras.layers.Dense(2)]
    ),
    "functional": functional,
    "nested": nested,
    "subclassed": subclassed,
}


def look(model):
    """Everything that must survive."""
    flat = list(model._flatten_layers())
    return {
        "classes": [type(layer) for layer in flat],
        "names": [layer.name for layer in flat],
        "paths": [variable.path for variable in model.variables],
        "variables": [id(variable) for variable in model.variables],
        "attributes": [set(vars(variable)) for variable in model.variables],
        "layers": [id(layer) for layer in flat],
    }


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_enable_then_disable_leaves_everything_as_it_was(make):
    model = make()
    before, weights, predictions = look(model), model.get_weights(), model.predict(X, verbose=0)

    assert tf_kfgn.enable_curvature(model) is model
    during = look(model)
    assert during["classes"] != before["classes"]
    assert {k: during[k] for k in ("names", "paths", "variables", "layers")} == {
        k: before[k] for k in ("names", "paths", "variables", "layers")
    }
    np.testing.assert_array_equal(model.predict(X, verbose=0), predictions)

    assert tf_kfgn.disable_curvature(model) is model
    assert look(model) == before
    np.testing.assert_array_equal(model.predict(X, verbose=0), predictions)
    for after, value in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(after, value)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_an_enabled_model_trains_and_a_disabled_one_trains_as_keras_does(make):
    model = tf_kfgn.enable_curvature(make())
    y = X[:, :2] - 1
    model.compile(optimizer=tf_kfgn.KFLR(), loss="mse", jit_compile=False)
    logs = model.fit(X, y, epochs=3, batch_size=6, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]
    assert {"damping", "step_size"} <= set(logs)
    tf_kfgn.disable_curvature(model)
    model.compile(optimizer="sgd", loss="mse")
    assert set(model.fit(X, y, verbose=0).history) == {"loss"}


def test_enabling_twice_is_enabling_once():
    model = tf_kfgn.enable_curvature(functional())
    once = look(model)
    assert look(tf_kfgn.enable_curvature(model)) == once


def test_an_enabled_model_trains_with_another_optimizer_as_keras_does():
    y = X[:, :2]
    histories = []
    for enable in (False, True):
        keras.utils.set_random_seed(1)
        model = functional()
        if enable:
            tf_kfgn.enable_curvature(model)
        model.compile(optimizer="adam", loss="mse")
        histories.append(model.fit(X, y, epochs=3, verbose=0).history)
    assert histories[0] == histories[1]


def test_enabling_a_compiled_model_takes_effect():
    model = functional()
    model.compile(optimizer="sgd", loss="mse", jit_compile=False)
    model.fit(X, X[:, :2], verbose=0)
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse", jit_compile=False)
    assert "damping" in model.fit(X, X[:, :2], verbose=0).history


def test_a_training_loop_of_the_users_own_is_kept():
    class Own(Subclassed):
        def train_step(self, data):
            return {"own": 1.0}

    model = Own()
    model(X)
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer="sgd", loss="mse")
    assert model.fit(X, X[:, :2], verbose=0).history == {"own": [1.0]}


def test_an_unbuilt_model_is_refused():
    model = keras.Sequential([keras.layers.Dense(2)], name="young")
    with pytest.raises(ValueError, match=r"'young' has not been built.*keras\.Input"):
        tf_kfgn.enable_curvature(model)
    assert type(model) is keras.Sequential
    assert type(model.layers[0]) is keras.layers.Dense


@pytest.mark.parametrize("function", [tf_kfgn.enable_curvature, tf_kfgn.disable_curvature])
def test_what_is_no_model_is_refused(function):
    with pytest.raises(TypeError, match=r"keras\.Model.*Dense"):
        function(keras.layers.Dense(2))


def test_strict_names_each_weight_without_a_block_and_changes_nothing():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3),
            keras.layers.LayerNormalization(name="norm"),
            keras.layers.Dense(2),
        ]
    )
    before = look(model)
    with pytest.raises(ValueError, match=r"norm/gamma.*norm/beta"):
        tf_kfgn.enable_curvature(model, strict=True)
    assert look(model) == before
    model.layers[1].trainable = False
    tf_kfgn.enable_curvature(model, strict=True)


def test_a_layer_that_cannot_be_recorded_leaves_the_model_as_it_was():
    model = functional()
    model.get_layer("last").enable_lora(1)
    before = look(model)
    with pytest.raises(ValueError, match=r"'last'.*LoRA"):
        tf_kfgn.enable_curvature(model)
    assert look(model) == before


def test_weights_without_a_matrix_train_with_a_diagonal():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(2), keras.layers.BatchNormalization(name="norm")]
    )
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.KFLR(), loss="mse", jit_compile=False)
    before = [variable.numpy() for variable in model.trainable_variables]
    history = model.fit(X, X[:, :2], epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.any(variable.numpy() != old)


def test_training_without_enabling_says_what_to_call():
    model = functional()
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse", jit_compile=False)
    with pytest.raises(ValueError, match=r"tf_kfgn\.enable_curvature\(model\)"):
        model.fit(X, X[:, :2], verbose=0)


def test_disabling_keeps_a_class_that_was_derived_from_a_recording_one():
    class Named(layers.Dense):
        pass

    model = keras.Sequential([keras.Input((4,)), Named(3), layers.Dense(2)])
    tf_kfgn.enable_curvature(model)
    tf_kfgn.disable_curvature(model)
    assert [type(layer) for layer in model.layers] == [Named, keras.layers.Dense]


def test_class_weights_scale_the_curvature_as_sample_weights_do():
    y = np.arange(len(X)) % 2
    weights = {0: 0.2, 1: 3.0}
    results = []
    for arguments in (
        {"class_weight": weights},
        {"sample_weight": np.array([weights[label] for label in y])},
        {},
    ):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        tf_kfgn.enable_curvature(model)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=tf_kfgn.KFLR(), loss=loss, jit_compile=False)
        model.fit(X, y, epochs=3, shuffle=False, verbose=0, **arguments)
        results.append(np.concatenate([np.ravel(v) for v in model.optimizer.variables]))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-7)
    assert not np.allclose(results[0], results[2], rtol=1e-2)


class Gap(keras.Model):
    """A model with an operation that no layer makes, hence nobody records."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(3, name="first"), keras.layers.Dense(2)

    def call(self, x):
        return self.second(keras.ops.sin(self.first(x)))


def test_an_operation_outside_of_layers_stops_kfra_alone():
    model = Gap()
    model(X)
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse", jit_compile=False)
    with pytest.raises(ValueError, match=r"\['first'\].*not recorded.*KFLR or KFAC"):
        model.fit(X, X[:, :2], verbose=0)
    model.compile(optimizer=tf_kfgn.KFLR(), loss="mse", jit_compile=False)
    history = model.fit(X, X[:, :2], epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_a_wrong_loss_is_named():
    model = tf_kfgn.enable_curvature(functional())
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mae", jit_compile=False)
    with pytest.raises(ValueError, match=r"No Gauss-Newton curvature.*'mae'"):
        model.fit(X, X[:, :2], verbose=0)


# Models built from the recording classes


def test_model_with_inputs_and_outputs_is_functional():
    inputs = keras.Input((4,))
    model = tf_kfgn.Model(inputs, layers.Dense(2)(inputs))
    assert isinstance(model, tf_kfgn.Model)
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse", jit_compile=False)
    assert "damping" in model.fit(X, X[:, :2], verbose=0).history


def test_subclasses_of_model_may_be_functional_or_not():
    class Graph(tf_kfgn.Model):
        def __init__(self):
            inputs = keras.Input((4,))
            super().__init__(inputs, layers.Dense(2)(inputs))

    class Calls(tf_kfgn.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    bases = tf_kfgn.Model.__bases__
    for model in (Graph(), Calls()):
        model.compile(optimizer=tf_kfgn.KFRA(), loss="mse", jit_compile=False)
        assert "damping" in model.fit(X, X[:, :2], verbose=0).history
    assert tf_kfgn.Model.__bases__ == bases


def test_sequential_of_recording_layers_trains():
    model = tf_kfgn.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(2)])
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse", jit_compile=False)
    assert "damping" in model.fit(X, X[:, :2], verbose=0).history


def test_dropout_trains_with_one_mask_for_each_update():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2, use_bias=False)]
    )
    tf_kfgn.enable_curvature(model)
    optimizer = tf_kfgn.KFRA(damping=1e-5, damping_period=1)
    model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
    big = np.random.default_rng(1).normal(size=(64, 4)).astype("float32")
    model.train_on_batch(big, big[:, :2])
    # The net is linear, so the model is exact, if the masks after the step are those before it.
    assert float(optimizer.reduction_ratio) == pytest.approx(1.0, abs=1e-3)


def test_sample_weights_reach_the_curvature():
    y = X[:, :2]
    weights = []
    for sample_weight in (None, np.full(6, 4.0)):
        keras.utils.set_random_seed(2)
        model = tf_kfgn.enable_curvature(mlp([4, 2], None))
        optimizer = tf_kfgn.KFLR()
        model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
        model.fit(X, y, sample_weight=sample_weight, epochs=2, verbose=0)
        weights.append(model.get_weights()[0])
        G = optimizer.memory.blocks[0].G.numpy()
        np.testing.assert_allclose(G, (1 if sample_weight is None else 4) * np.eye(2), rtol=1e-6)
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-4, atol=1e-6)


def test_a_model_that_is_enabled_anew_goes_on_with_its_optimizer():
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    models = []
    for again in (False, True):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(4, "tanh"), keras.layers.BatchNormalization()]
        model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
        tf_kfgn.enable_curvature(model).compile(tf_kfgn.KFRA(factor_period=1), "mse")
        model.train_on_batch(x, x[:, :1])
        if again:
            tf_kfgn.enable_curvature(tf_kfgn.disable_curvature(model))
        model.train_on_batch(x, x[:, :1])
        models.append(model)
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
