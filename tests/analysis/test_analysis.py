"""Curvature of any built model, against brute force; the model is what it was before."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from brute_force import gauss_newton
from problems import mlp, reference, sequence_model

import tf_kfgn

PROBLEMS = ["mlp_categorical", "mlp_gaussian", "mlp_bernoulli", "deep_linear_gaussian"]


def classes(model):
    return [type(layer) for layer in model._flatten_layers()]


@pytest.mark.parametrize("name", PROBLEMS)
def test_blocks_equal_brute_force_and_the_references(name):
    given, values = reference(name)
    model = given.model()
    before = classes(model)
    blocks = tf_kfgn.gauss_newton_blocks(model, given.x, given.loss, given.y)
    assert classes(model) == before
    assert list(blocks) == [layer.name for layer in model.layers]
    for i, layer in enumerate(model.layers):
        dense = gauss_newton(model, given.x, given.y, given.loss, layer.variables)
        np.testing.assert_allclose(blocks[layer.name], dense, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(blocks[layer.name], values[f"block_{i}"], rtol=1e-6, atol=1e-12)


def test_blocks_of_shared_positions_equal_brute_force():
    given, _ = reference("sequence_pooled")
    model = given.model()
    blocks = tf_kfgn.gauss_newton_blocks(model, given.x, given.loss)
    for layer in model.layers:
        if layer.trainable_variables:
            dense = gauss_newton(model, given.x, given.y, given.loss, layer.variables)
            np.testing.assert_allclose(blocks[layer.name], dense, rtol=1e-9, atol=1e-14)


def test_the_product_is_that_of_the_whole_matrix_and_not_of_its_blocks():
    given, _ = reference("mlp_categorical")
    model = given.model()
    generator = np.random.default_rng(0)
    vectors = [generator.normal(size=v.shape) for v in model.trainable_variables]
    flat = np.concatenate([v.ravel() for v in vectors])
    product = tf_kfgn.gauss_newton_vector_product(model, given.x, given.loss, vectors, given.y)
    product = np.concatenate([np.ravel(p) for p in product])
    dense = gauss_newton(model, given.x, given.y, given.loss, model.trainable_variables)
    np.testing.assert_allclose(product, dense @ flat, rtol=1e-9)
    first = model.layers[0].count_params()
    assert not np.allclose(product[:first], dense[:first, :first] @ flat[:first], rtol=1e-2)


def test_factors_are_keyed_by_layer_and_leave_an_enabled_model_enabled():
    given, values = reference("mlp_gaussian")
    model = tf_kfgn.enable_curvature(given.model())
    before = classes(model)
    factors = tf_kfgn.kronecker_factors(model, given.x, given.loss, "kfra")
    assert classes(model) == before
    for i, layer in enumerate(model.layers):
        np.testing.assert_allclose(factors[layer.name].G, values[f"kfra_G_{i}"], rtol=1e-6)
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse")  # still has its marks
    model.optimizer.build(model.trainable_variables)


def test_kfac_draws_by_its_seed():
    given, _ = reference("mlp_gaussian")
    model = given.model()
    first, same, other = (
        next(
            iter(tf_kfgn.kronecker_factors(model, given.x, given.loss, "kfac", seed=seed).values())
        ).G
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_errors_restore_the_model():
    given, _ = reference("sequence_pooled")
    model = given.model()
    before = classes(model)
    with pytest.raises(ValueError, match=r"targets"):
        tf_kfgn.gauss_newton_blocks(model, given.x, "poisson")
    assert classes(model) == before


def test_bad_arguments_are_named():
    model = mlp([3, 2], None)
    x = np.ones((4, 3))
    with pytest.raises(ValueError, match="has not been built"):
        tf_kfgn.gauss_newton_blocks(keras.Sequential([keras.layers.Dense(2)]), x, "mse")
    with pytest.raises(TypeError, match=r"keras\.Model"):
        tf_kfgn.kronecker_factors("model", x, "mse", "kfra")
    with pytest.raises(ValueError, match=r"shaped like model\.trainable_variables"):
        tf_kfgn.gauss_newton_vector_product(model, x, "mse", [np.ones((3, 2))])
    with pytest.raises(ValueError, match="`method` must be one of"):
        tf_kfgn.kronecker_factors(sequence_model(), np.ones((2, 5, 6)), "mse", "ekfac")
