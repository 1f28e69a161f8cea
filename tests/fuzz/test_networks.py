"""Random networks: training, exact blocks, factors, and what must leave predictions as they are."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from brute_force import gauss_newton
from fuzzing import examples
from hypothesis import given, strategies as st
from random_networks import PIECEWISE_LINEAR, RECURRENT, Recipe, chains, networks

import tf_kfgn

OPTIMIZERS = st.sampled_from((tf_kfgn.KFRA, tf_kfgn.KFLR, tf_kfgn.KFAC))
POLICIES = st.sampled_from(("float32", "float64", "mixed_float16", "mixed_bfloat16"))
UPDATES = 8


@examples(8)
@given(networks(in_training=True), OPTIMIZERS, POLICIES, st.integers(1, 12))
def test_on_a_full_batch_weights_stay_finite_and_the_loss_low(recipe, optimizer, policy, count):
    model = tf_kfgn.enable_curvature(recipe.build(policy))
    made = optimizer(**({} if optimizer is tf_kfgn.KFRA else {"seed": 0}))
    model.compile(optimizer=made, loss=recipe.make_loss())
    x, y = recipe.batch(count)
    losses = model.fit(x, y, batch_size=count, epochs=UPDATES, verbose=0).history["loss"]
    for variable in model.variables:
        assert np.all(np.isfinite(variable.numpy())), variable.path
    assert np.all(np.isfinite(losses)), losses
    # Each loss is that of the weights before an update, with its dropout masks.
    if not any(step.name == "Dropout" for step in recipe.steps):
        assert max(losses) <= losses[0] + 0.5 * abs(losses[0]) + 1e-6, losses


@examples(15)
@given(networks(), st.integers(1, 3), st.booleans())
def test_exact_blocks_are_those_of_brute_force(recipe, count, weighted):
    model = recipe.build("float64")
    x, y = recipe.batch(count, "float64")
    loss = recipe.make_loss("float64")
    weights = np.linspace(0.0, 2.0, count) if weighted else None
    blocks = tf_kfgn.gauss_newton_blocks(model, x, loss, y, sample_weight=weights)
    natural, its_loss = recipe.at_natural_parameters(model)
    for layer in model.layers:
        if not layer.trainable_variables:
            continue
        dense = gauss_newton(natural, x, y, its_loss, layer.trainable_variables, weights)
        scale = np.abs(dense).max() + 1e-12
        own = {n: b.numpy() for n, b in blocks.items() if n.split("/")[0] == layer.name}
        assert own, layer.name
        np.testing.assert_allclose(
            sum(np.trace(block) for block in own.values()), np.trace(dense), atol=1e-8 * scale
        )
        if len(own) == 1:  # the order of weights is the layer's own, so compare what has none
            (block,) = own.values()
            spectra = [np.linalg.eigvalsh(matrix) for matrix in (block, dense)]
            np.testing.assert_allclose(*spectra, atol=1e-8 * scale)


def _assert_kronecker(recipe: Recipe, count: int, method: str) -> None:
    model = recipe.build("float64")
    x, y = recipe.batch(count, "float64")
    factors = tf_kfgn.kronecker_factors(model, x, recipe.make_loss("float64"), method, y=y)
    natural, loss = recipe.at_natural_parameters(model)
    for layer in model.layers:
        if layer.trainable_variables:
            dense = gauss_newton(natural, x, y, loss, layer.trainable_variables)
            A, G = factors[layer.name]
            np.testing.assert_allclose(
                np.kron(A, G), dense, rtol=1e-8, atol=1e-8 * (np.abs(dense).max() + 1e-12)
            )


@examples(12)
@given(chains(), st.sampled_from(("kfra", "kflr")))
def test_of_one_example_the_factors_are_exact(recipe, method):
    _assert_kronecker(recipe, 1, method)


@examples(5)
@given(chains(("linear",), "squared error"), st.integers(2, 6), st.sampled_from(("kfra", "kflr")))
def test_of_a_linear_net_the_factors_are_exact(recipe, count, method):
    _assert_kronecker(recipe, count, method)


@examples(5)
@given(chains(PIECEWISE_LINEAR), st.integers(2, 4))
def test_blocks_are_symmetric_and_semi_definite(recipe, count):
    model = recipe.build("float64")
    x, y = recipe.batch(count, "float64")
    for method in ("kfra", "kflr", "kfac"):
        found = tf_kfgn.kronecker_factors(model, x, recipe.make_loss("float64"), method, y=y)
        for A, G in found.values():
            for factor in (A.numpy(), G.numpy()):
                np.testing.assert_allclose(factor, factor.T, atol=1e-12)
                assert np.linalg.eigvalsh(factor).min() >= -1e-9 * (1 + np.abs(factor).max())


@examples(12)
@given(networks(in_training=True), POLICIES, st.booleans())
def test_predictions_stay_bitwise(tmp_path_factory, recipe, policy, enabled):
    model = recipe.build(policy)
    x, _ = recipe.batch(3)
    before = model(x).numpy()
    assert np.array_equal(tf_kfgn.enable_curvature(model)(x), before)
    with tf_kfgn.CurvatureTape():
        recorded = model(x).numpy()
    if any(step.name in RECURRENT for step in recipe.steps):  # whose sums have another order
        digits = 1e-5 if policy.startswith("float") else 3e-2
        np.testing.assert_allclose(recorded, before, rtol=digits, atol=digits)
    else:
        assert np.array_equal(recorded, before)
    if not enabled:
        assert np.array_equal(tf_kfgn.disable_curvature(model)(x), before)
        assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert np.array_equal(loaded(x), before)
    for one, other in zip(loaded.weights, model.weights, strict=True):
        assert np.array_equal(one.numpy(), other.numpy()), one.path


@examples(3)
@given(networks(in_training=True), OPTIMIZERS)
def test_eager_and_compiled_updates_agree(recipe, optimizer):
    found = []
    for eagerly in (True, False):
        model = tf_kfgn.enable_curvature(recipe.build("float64"))
        options = {} if optimizer is tf_kfgn.KFRA else {"seed": 0}
        loss = recipe.make_loss("float64")
        model.compile(optimizer=optimizer(**options), loss=loss, run_eagerly=eagerly)
        x, y = recipe.batch(6, "float64")
        for _ in range(2):
            model.train_on_batch(x, y)
        found.append([tf.convert_to_tensor(v).numpy() for v in model.trainable_variables])
    for eager, compiled in zip(*found, strict=True):
        np.testing.assert_allclose(eager, compiled, rtol=1e-5, atol=1e-7)
