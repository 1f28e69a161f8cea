"""Optimizers around ours, and several beside each other."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from updates import MSE, OPTIMIZERS, WITH_HESSIAN_FREE, batches, made

import tf_kfgn
from tf_kfgn.optimizers import gauss_newton_of
from tf_kfgn.optimizers.wrapping import delegates_to_several

pytestmark = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)
generator = np.random.default_rng(0)
TOKENS = generator.integers(0, 7, size=(32, 3))
Y = np.tanh(TOKENS.mean(axis=1, keepdims=True) - 3) + 0.1


def network():
    """An embedding and a dense trunk."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,), dtype="int32")
    hidden = keras.layers.Embedding(7, 4, dtype="float64", name="table")(inputs)
    hidden = keras.layers.Flatten(dtype="float64")(hidden)
    hidden = keras.layers.Dense(5, "tanh", dtype="float64", name="hidden")(hidden)
    return keras.Model(inputs, keras.layers.Dense(1, dtype="float64", name="head")(hidden))


def compiled(optimizer, freeze=None, **arguments):
    model = tf_kfgn.enable_curvature(network())
    for name in freeze or ():
        model.get_layer(name).trainable = False
    model.compile(optimizer=optimizer, loss=MSE, **{"run_eagerly": True, **arguments})
    return model


def seeded(optimizer):
    own = {"seed": 3} if optimizer is tf_kfgn.KFAC else {}
    if optimizer is tf_kfgn.HessianFree:
        own = {"seed": 3, "preconditioner": "kfac", "max_cg_iterations": 3}
        own["backtracking"] = False  # where Adam has moved first, the objective is another one
    return optimizer(damping=0.1, damping_period=1, **own)


def joined(optimizer, first="table"):
    """Ours for the trunk and AdamW for the table; the one in the map moves first."""
    ours, adam = seeded(optimizer), keras.optimizers.AdamW(0.1)
    if first == "table":
        names = keras.optimizers.OptimizerMap(ours, {"table/.*": adam})
    else:
        names = keras.optimizers.OptimizerMap(adam, {"(hidden|head)/.*": ours})
    return keras.optimizers.MultiOptimizer(names), ours


@pytest.mark.parametrize("first", ["table", "trunk"])
@pytest.mark.parametrize("optimizer", WITH_HESSIAN_FREE)
def test_each_optimizer_makes_the_step_that_it_would_make_alone(optimizer, first):
    """Ours sees gradient and curvature of the recorded pass, even where Adam moved first."""
    several, ours = joined(optimizer, first)
    together = compiled(several)
    alone = compiled(seeded(optimizer), freeze=["table"])
    adam = compiled(keras.optimizers.AdamW(0.1), freeze=["hidden", "head"])
    for model in (together, alone, adam):
        model.train_on_batch(TOKENS, Y)
    for name, other in (("hidden", alone), ("head", alone), ("table", adam)):
        weights = zip(
            together.get_layer(name).get_weights(), other.get_layer(name).get_weights(), strict=True
        )
        for actual, expected in weights:
            np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-12)
    assert list(ours.curvature()) == ["hidden", "head"]


@pytest.mark.parametrize("first", ["table", "trunk"])
def test_the_ratio_counts_the_change_by_our_own_step_alone(first):
    several, ours = joined(tf_kfgn.KFRA, first)
    together, alone = compiled(several), compiled(seeded(tf_kfgn.KFRA), freeze=["table"])
    together.train_on_batch(TOKENS, Y)
    alone.train_on_batch(TOKENS, Y)
    trunk = [w for name in ("hidden", "head") for w in together.get_layer(name).get_weights()]
    moved = compiled("sgd")
    if first == "table":  # Adam has moved it when our step is measured
        moved.get_layer("table").set_weights(together.get_layer("table").get_weights())
    before = float(MSE(Y, moved(TOKENS)))
    for name, weights in (("hidden", trunk[:2]), ("head", trunk[2:])):
        moved.get_layer(name).set_weights(weights)
    after = float(MSE(Y, moved(TOKENS)))
    fresh = compiled("sgd")
    actual = float(alone.optimizer.reduction_ratio)
    predicted = (float(MSE(Y, alone(TOKENS))) - float(MSE(Y, fresh(TOKENS)))) / actual
    np.testing.assert_allclose(float(ours.reduction_ratio), (after - before) / predicted, rtol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_together_they_train_and_a_file_continues_them(optimizer, tmp_path):
    several, ours = joined(optimizer)
    model = compiled(several, run_eagerly=False, jit_compile=False)
    history = model.fit(TOKENS, Y, batch_size=16, epochs=4, shuffle=False, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["damping"][-1] == pytest.approx(float(ours.damping))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.compile(optimizer=loaded.optimizer, loss=MSE, jit_compile=False)
    for one in (model, loaded):
        one.fit(TOKENS, Y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    for actual, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_ours_is_found_inside_other_optimizers():
    ours, adam = tf_kfgn.KFRA(), keras.optimizers.Adam()
    several = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(adam, {"a/.*": ours}))
    scaled = keras.optimizers.LossScaleOptimizer(ours)
    assert gauss_newton_of(ours) is ours
    assert gauss_newton_of(scaled) is ours
    assert gauss_newton_of(several) is ours
    assert gauss_newton_of(adam) is None
    assert gauss_newton_of(keras.optimizers.LossScaleOptimizer(adam)) is None
    assert delegates_to_several(several)
    assert not delegates_to_several(scaled)


def test_optimizers_that_are_chosen_by_a_function_are_found():
    ours, adam = tf_kfgn.KFRA(), keras.optimizers.Adam()
    several = keras.optimizers.MultiOptimizer(lambda v: adam if "table" in v.path else ours)
    model = compiled(several)
    model.train_on_batch(TOKENS, Y)
    assert int(ours.iterations) == 1
    assert int(ours.memory.scalars.factor_updates) == 1


def test_only_other_optimizers_train_as_in_keras():
    several = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD()))
    model, plain = made(several), made("sgd")
    [(x, y)] = batches(1)
    assert "damping" not in model.train_on_batch(x, y, return_dict=True)
    plain.train_on_batch(x, y)
    np.testing.assert_array_equal(model.get_weights()[0], plain.get_weights()[0])


def test_a_loss_scale_around_several_optimizers_is_built_once():
    several, ours = joined(tf_kfgn.KFRA)
    scaled = keras.optimizers.LossScaleOptimizer(several)
    model = compiled(scaled, run_eagerly=False, jit_compile=False)
    losses = model.fit(TOKENS, Y, batch_size=16, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    names = [variable.path for variable in scaled._variables]
    assert len([name for name in names if "dynamic_scale" in name]) == 1
    assert int(ours.iterations) == 8


def test_a_map_that_gives_ours_no_variable_says_so():
    names = keras.optimizers.OptimizerMap(keras.optimizers.AdamW(), {"idden/.*": tf_kfgn.KFAC()})
    model = compiled(keras.optimizers.MultiOptimizer(names))
    with pytest.raises(ValueError, match=r"kfac.* none of these .*hidden/kernel.*whole"):
        model.fit(TOKENS, Y, verbose=0)
