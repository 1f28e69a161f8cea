"""Convolutions in models: where their Kronecker factors are exact, saving, and what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, gauss_newton_of, wrong
from convolutions import CASES, operations_of, weights_of
from older_keras import skip_where_stock_fails
from passes import factors_of, record
from problems import random_problem, seeded, sequential

import tf_kfgn
from tf_kfgn.factors import KFLREstimator, KFRAEstimator
from tf_kfgn.operations.marks import matrix_of

L = keras.layers


# Where the factors are exact


def block_error(problem, estimator, index=0):
    """Whether the Kronecker products differ from the exact block of a layer, group by group."""
    model, tape, _ = record(problem)
    operation = operations_of(tape)[index]
    A, G = factors_of(problem, estimator)[index]
    weights = weights_of(operation)
    ends = np.cumsum([0] + [np.prod(weight.shape) for weight in model.trainable_variables])
    places = {
        id(weight): np.arange(start, end).reshape(weight.shape)
        for weight, start, end in zip(model.trainable_variables, ends[:-1], ends[1:], strict=True)
    }
    joined = operation.matrix.join([tf.constant(places[id(weight)]) for weight in weights])
    exact = gauss_newton_of(problem)
    if operation.matrix.groups is None:
        A, G, joined = A[None], G[None], joined[None]
    blocks = [exact[np.ix_(np.ravel(place), np.ravel(place))] for place in joined]
    products = [np.kron(a, g) for a, g in zip(A, G, strict=True)]
    if not wrong(products, blocks):
        allclose(products, blocks)
        return False
    return True


def one_layer(name, *after):
    given = CASES[name]
    skip_where_stock_fails(given.run_stock)
    return random_problem(name, lambda: sequential(given.shape, given.stock(), *after), batch=4)


LINEAR = ["1d, causal", "2d", "2d, same, strides", "2d, groups", "3d", "depthwise 2d, strides",
          "depthwise 2d, channels first", "transpose 2d, same"]  # fmt: skip


@pytest.mark.parametrize("estimator", [KFLREstimator, KFRAEstimator])
@pytest.mark.parametrize("name", LINEAR)
def test_expand_is_exact_for_a_loss_on_each_pixel_and_reduce_is_not(name, estimator):
    given = one_layer(name)
    assert not block_error(given, estimator("expand"))
    assert block_error(given, estimator("reduce"))


@pytest.mark.parametrize("name", ["2d", "2d, same, strides", "2d, groups", "transpose 2d, same"])
def test_reduce_is_exact_before_a_global_average_and_expand_is_not(name):
    given = one_layer(name, keras.layers.GlobalAveragePooling2D(dtype="float64"))
    assert not block_error(given, KFLREstimator("reduce"))
    assert block_error(given, KFLREstimator("expand"))


def test_the_block_of_a_convolution_is_that_of_the_analysis():
    given = one_layer("2d, same, strides")
    [(A, G)] = factors_of(given, KFLREstimator())
    blocks = tf_kfgn.gauss_newton_blocks(given.model(), given.x, given.loss, given.y)
    allclose(np.kron(A, G), next(iter(blocks.values())))


def many(activation=None):
    options = {"dtype": "float64", "activation": activation}
    return sequential(
        (6, 6, 2),
        L.Conv2D(4, 3, strides=2, padding="same", **options),
        L.SeparableConv2D(4, 2, depth_multiplier=2, **options),
        L.Conv2D(4, 2, groups=2, padding="same", **options),
        L.DepthwiseConv2D(2, padding="same", **options),
        L.Conv2DTranspose(2, 3, strides=2, dtype="float64"),
        L.Flatten(dtype="float64"),
        L.Dense(3, dtype="float64"),
    )


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_kfra_of_linear_convolutions_is_kflr(approximation):
    given = random_problem("many", many)
    pairs = [factors_of(given, cls(approximation)) for cls in (KFLREstimator, KFRAEstimator)]
    assert len(pairs[0]) == 7
    for kflr, kfra in zip(*pairs, strict=True):
        allclose(kfra.A, kflr.A)
        allclose(kfra.G, kflr.G)
    given = random_problem("many", lambda: many("tanh"))
    kflr, kfra = (
        factors_of(given, cls(approximation))[0] for cls in (KFLREstimator, KFRAEstimator)
    )
    assert wrong(kfra.G, kflr.G, by=1e-3)


# Saving, and layers that cannot be recorded


@pytest.mark.parametrize("enabled", [False, True])
def test_a_model_of_convolutions_survives_saving(tmp_path, enabled):
    model = tf_kfgn.enable_curvature(seeded(many)())
    if not enabled:  # layers of ours in a model of Keras'
        model = keras.Sequential([keras.Input((6, 6, 2), dtype="float64"), *model.layers])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 2))
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    np.testing.assert_array_equal(loaded(x), model(x))
    names = [matrix_of(variable).name for variable in loaded.trainable_variables]
    assert names == [matrix_of(variable).name for variable in model.trainable_variables]
    assert sum(name.endswith(("/depthwise", "/pointwise")) for name in names) == 3


@pytest.mark.slow
def test_training_a_model_of_convolutions_lowers_its_loss():
    given = random_problem("many", lambda: many("tanh"), batch=8)
    model = tf_kfgn.enable_curvature(given.model())
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse")
    history = model.fit(given.x, given.y, batch_size=8, epochs=5, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


def test_a_convolution_with_lora_is_refused():
    model = sequential((4, 4, 1), L.Conv2D(2, 2, dtype="float64", name="adapted"))
    model.layers[0].enable_lora(1)
    with pytest.raises(ValueError, match=r"'adapted'.*LoRA.*plain Conv2D"):
        tf_kfgn.enable_curvature(model)


def test_a_dynamic_image_size_is_refused():
    model = tf_kfgn.enable_curvature(sequential((None, 4, 1), L.Conv2D(2, 2, dtype="float64")))

    @tf.function(input_signature=[tf.TensorSpec((None, None, 4, 1), tf.float64)])
    def rows(x):
        with tf_kfgn.CurvatureTape() as tape:
            model(x)
        [operation] = tape.operations
        for use in (operation.input_rows, lambda: operation.cotangent_rows(operation.output)):
            with pytest.raises(ValueError, match=r"static feature axes.*keras\.Input"):
                use()
        return x

    rows(np.zeros((2, 3, 4, 1)))
