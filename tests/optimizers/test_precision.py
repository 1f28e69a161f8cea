"""Mixed precision: curvature in float32, whatever the layers compute in."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from updates import OPTIMIZERS, WITH_HESSIAN_FREE

import tf_kfgn
from tf_kfgn.numerics.precision import unit_scale
from tf_kfgn.optimizers import gauss_newton_of
from tf_kfgn.recording import products

POLICIES = ["mixed_float16", "mixed_bfloat16"]
generator = np.random.default_rng(0)
X = generator.normal(size=(64, 6, 6, 1)).astype("float32")
Y = (X.mean(axis=(1, 2, 3)) > 0).astype("int32")
X += Y[:, None, None, None]


@pytest.fixture(autouse=True)
def _single_precision(_double_precision):
    keras.config.set_floatx("float32")
    yield
    keras.config.set_dtype_policy("float32")


def network(policy):
    """A convolution, a normalisation, a residual branch, a nested model, and a float32 head."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((6, 6, 1))
    hidden = keras.layers.Conv2D(3, 3, activation="relu")(inputs)
    hidden = keras.layers.LayerNormalization()(hidden)
    hidden = keras.layers.AveragePooling2D(2)(hidden)
    hidden = keras.layers.Flatten()(hidden)
    hidden = keras.layers.Dense(12, activation="tanh")(hidden) + hidden
    nested = keras.Sequential([keras.Input((12,)), keras.layers.Dense(8, "gelu")])
    outputs = keras.layers.Dense(2, dtype="float32")(nested(hidden))
    model = keras.Model(inputs, outputs)
    keras.config.set_dtype_policy("float32")
    return model


def compiled(optimizer, policy, **arguments):
    model = tf_kfgn.enable_curvature(network(policy))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, **{"jit_compile": False, **arguments})
    return model


def seeded(optimizer, **arguments):
    own = {"seed": 3} if optimizer is tf_kfgn.KFAC else {}
    if optimizer is tf_kfgn.HessianFree:
        own = {"max_cg_iterations": 5}
    return optimizer(**own, **arguments)


def curvature(optimizer, policy, **arguments):
    """The averages after one update."""
    model = compiled(seeded(optimizer), policy, run_eagerly=True, **arguments)
    model.train_on_batch(X, Y)
    return [
        tensor.numpy()
        for block in gauss_newton_of(model.optimizer).curvature().values()
        for tensor in block
    ]


def distance(first, second):
    first, second = (np.concatenate([b.ravel() for b in blocks]) for blocks in (first, second))
    return np.linalg.norm(first - second) / np.linalg.norm(second)


@pytest.fixture(scope="module")
def plain_curvature():
    return {}


def single(optimizer, cache):
    if optimizer not in cache:
        cache[optimizer] = curvature(optimizer, "float32")
    return cache[optimizer]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_curvature_is_near_that_in_single_precision(optimizer, policy, plain_curvature):
    mixed = curvature(optimizer, policy)
    plain = single(optimizer, plain_curvature)
    assert all(tensor.dtype == np.float32 for tensor in mixed)
    for actual, expected in zip(mixed, plain, strict=True):
        assert np.linalg.norm(actual - expected) < 0.08 * np.linalg.norm(expected)
    assert distance(mixed, plain) > 1e-6  # the layers did compute in half precision


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_small_loss_does_not_vanish_in_half_precision(optimizer, plain_curvature, monkeypatch):
    weight = 1e-13  # a cotangent has its root

    def output_factor(blocks):
        return blocks[1:2]  # G of the convolution

    plain = curvature(optimizer, "float32", loss_weights=[weight])
    mixed = curvature(optimizer, "mixed_float16", loss_weights=[weight])
    assert distance(output_factor(mixed), output_factor(plain)) < 0.08
    if optimizer is not tf_kfgn.KFRA:
        monkeypatch.setattr(products, "unit_scale", lambda tensors: tf.constant(1.0))
        lost = curvature(optimizer, "mixed_float16", loss_weights=[weight])
        assert distance(output_factor(lost), output_factor(plain)) > 0.2


@pytest.mark.parametrize("optimizer", WITH_HESSIAN_FREE)
def test_an_overflow_skips_the_update_and_halves_the_loss_scale(optimizer):
    wrapped = keras.optimizers.LossScaleOptimizer(seeded(optimizer), initial_scale=2.0**24)
    model = compiled(wrapped, "mixed_float16")
    state, scales = [], []
    for _ in range(14):
        model.train_on_batch(X, Y)
        inner = wrapped.inner_optimizer
        scales.append(float(wrapped.dynamic_scale))
        state.append([w.numpy() for w in (*model.weights, *inner.variables)])
    skipped = [s for s in range(1, 14) if scales[s] < scales[s - 1]]
    assert skipped and scales[-1] < scales[0] <= 2.0**24
    for step in skipped:  # nothing but the scale changed
        for before, after in zip(state[step - 1], state[step], strict=True):
            np.testing.assert_array_equal(before, after)
    assert 0 < int(inner.iterations) == 14 - len(skipped) - (scales[0] < 2.0**24)
    assert int(inner.nonfinite_steps) == 0
    assert not np.array_equal(state[-1][0], state[0][0])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("optimizer", WITH_HESSIAN_FREE)
def test_training_in_mixed_precision_lowers_the_loss(optimizer, policy):
    model = compiled(seeded(optimizer), policy)
    half = policy == "mixed_float16"
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == half
    losses = model.fit(X, Y, batch_size=32, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]
    types = {v.dtype for v in gauss_newton_of(model.optimizer).variables}
    assert types == {"float32", "int64"}


@pytest.mark.parametrize("optimizer", WITH_HESSIAN_FREE)
def test_a_float64_model_has_float64_curvature_beside_a_float32_layer(optimizer):
    layers = [
        keras.layers.Dense(4, "tanh", dtype="float64"),
        keras.layers.LayerNormalization(dtype="float32"),
        keras.layers.Dense(2, dtype="float64"),
    ]
    model = keras.Sequential([keras.Input((36,), dtype="float64"), *layers])
    tf_kfgn.enable_curvature(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    optimizer = seeded(optimizer)
    model.compile(optimizer=optimizer, loss=loss, run_eagerly=True)
    x = X.reshape(64, 36).astype("float64")
    losses = [model.train_on_batch(x, Y) for _ in range(3)]
    assert losses[-1] < losses[0]
    assert all(t.dtype == tf.float64 for block in optimizer.curvature().values() for t in block)


LOSSES = {
    "mse": (None, keras.utils.to_categorical(Y, 2)),
    "binary_crossentropy": ("sigmoid", keras.utils.to_categorical(Y, 2)),
    "sparse_categorical_crossentropy": ("softmax", Y),
    "poisson": ("exponential", keras.utils.to_categorical(Y, 2)),
    "huber": (None, keras.utils.to_categorical(Y, 2)),
}


@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [*itertools.product(OPTIMIZERS, LOSSES), (tf_kfgn.HessianFree, "binary_crossentropy")],
)
def test_the_outputs_may_be_of_half_precision(optimizer, loss):
    head, targets = LOSSES[loss]
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_float16")
    layers = [keras.layers.Flatten(), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2, head)]
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=seeded(optimizer), loss=loss, run_eagerly=True)
    losses = [model.train_on_batch(X, targets) for _ in range(4)]
    assert model(X[:1]).dtype == tf.float16
    assert losses[-1] < losses[0]


def test_weights_of_half_precision_are_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="float16")])
    tf_kfgn.enable_curvature(model)
    with pytest.raises(ValueError, match=r"half precision.*kernel.*mixed_float16"):
        tf_kfgn.KFRA().build(model.trainable_variables)


def test_products_with_the_jacobian_neither_vanish_nor_overflow_in_half_precision():
    images = {}
    for policy in ("float32", "mixed_float16"):
        model = tf_kfgn.enable_curvature(network(policy))
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(X, training=True)
        for size in (1e-9, 1.0, 1e9):
            tangents = [size * tf.ones(v.shape) for v in model.trainable_variables]
            images[policy, size] = tape.jvp(tangents, outputs).numpy() / size
    for size in (1e-9, 1.0, 1e9):
        norm = np.linalg.norm(images["float32", size])
        assert np.linalg.norm(images["mixed_float16", size] - images["float32", size]) < 0.02 * norm


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([3.0, -5.0], 0.25),
        ([2.0**-30], 2.0**30),
        ([0.0], 1.0),
        ([np.inf, 1.0], 1.0),
        ([np.nan], 1.0),
    ],
)
def test_the_scale_brings_the_largest_magnitude_near_one(values, scale):
    assert float(unit_scale([tf.constant(values)])) == scale
