"""KFRA on graphs: cross terms, tensors used several times, several losses."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from brute_force import allclose, wrong
from keras import layers
from passes import SEED, record
from problems import LOSSES, MSE, Problem, seeded

import tf_kfgn
from tf_kfgn.factors import KFLREstimator, KFRAEstimator

CATEGORICAL = LOSSES["SparseCategoricalCrossentropy(from_logits=True)"]
ACTIVATION: dict[str, Any] = {"name": None}


def dense(units: int) -> layers.Dense:
    return layers.Dense(units, ACTIVATION["name"], dtype="float64")


def add(*tensors: Any) -> Any:
    return layers.Add(dtype="float64")(list(tensors))


def skip(x):
    return dense(2)(add(x, dense(4)(dense(3)(x))))


def skips(x):
    h = dense(4)(x)
    h = add(h, dense(4)(h))
    h = add(h, dense(4)(dense(3)(h)), x)
    return dense(2)(h)


def concatenated(x):
    a, b = dense(3)(x), dense(2)(x)
    return dense(2)(layers.Concatenate(dtype="float64")([a, b, dense(2)(a)]))


def differences(x):
    a, b = dense(3)(x), dense(3)(x)
    h = layers.Subtract(dtype="float64")([a, layers.Average(dtype="float64")([a, b])])
    return dense(2)(add(h, b))


def twice(x):
    h = dense(3)(x)
    return dense(2)(add(h, h))


def three_times(x):
    h = dense(3)(x)
    return dense(2)(add(dense(3)(h), dense(3)(h), h))


def shared(x):
    cell = keras.Sequential([dense(4), dense(4)])
    return dense(2)(add(cell(x), cell(cell(x))))


def parallel_use(x):
    cell = dense(3)
    a, b = dense(4)(x), dense(4)(x)
    return dense(2)(layers.Concatenate(dtype="float64")([cell(a), cell(b)]))


def broadcast(x):
    rows = layers.Reshape((2, 2), dtype="float64")(x)
    h = dense(3)(rows)
    h = add(h, layers.AveragePooling1D(2, dtype="float64")(h), dense(3)(x))
    return dense(2)(layers.GlobalAveragePooling1D(dtype="float64")(h))


def images(x):
    h = layers.Reshape((2, 2, 1), dtype="float64")(x)
    h = layers.ZeroPadding2D(1, dtype="float64")(dense(2)(h))
    h = add(h, layers.Permute((2, 1, 3), dtype="float64")(h))
    h = layers.Cropping2D(1, dtype="float64")(h)
    return dense(2)(layers.Flatten("channels_first", dtype="float64")(h))


def gated(x):
    """A gate for each feature, for all rows."""
    h = dense(3)(layers.Reshape((2, 2), dtype="float64")(x))
    h = layers.Multiply(dtype="float64")([h, dense(3)(x)])
    return dense(2)(layers.GlobalMaxPooling1D(dtype="float64")(h))


def extremes(x):
    a, b = dense(3)(x), dense(3)(x)
    high, low = layers.Maximum(dtype="float64")([a, b]), layers.Minimum(dtype="float64")([a, b])
    return dense(2)(layers.Concatenate(dtype="float64")([high, low, add(a, low)]))


def normalised(x):
    h = dense(4)(x)
    h = add(h, dense(4)(layers.LayerNormalization(dtype="float64")(h)))
    h = add(h, layers.BatchNormalization(dtype="float64")(h))
    return dense(2)(layers.GroupNormalization(2, dtype="float64")(h))


def similarity(x):
    a, b = dense(3)(x), dense(3)(x)
    return dense(2)(layers.Dot(-1, normalize=True, dtype="float64")([a, b]))


GRAPHS = {
    make.__name__: make
    for make in (
        skip, skips, concatenated, differences, twice, three_times, shared, parallel_use, broadcast,
        images,
    )
}  # fmt: skip
NONLINEAR = {make.__name__: make for make in (gated, extremes, normalised, similarity)}


def problem(make, batch, activation=None, loss=MSE):
    def build():
        ACTIVATION["name"] = activation
        inputs = keras.Input((4,), dtype="float64")
        return keras.Model(inputs, make(inputs))

    generator = np.random.default_rng(0)
    x = generator.normal(size=(batch, 4))
    y = (
        generator.integers(2, size=batch)
        if loss is CATEGORICAL
        else generator.normal(size=(batch, 2))
    )
    return Problem(make.__name__, seeded(build), x, y, loss)


def compare(given, approximation):
    """Whether KFRA's and KFLR's factors are the same."""
    _, tape, _ = record(given)
    pairs = zip(
        KFRAEstimator(approximation)(tape, SEED).values(),
        KFLREstimator(approximation)(tape, SEED).values(),
        strict=True,
    )
    return [(kfra.G, kflr.G) for kfra, kflr in pairs]


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS.keys())
def test_linear_graphs_are_exact_for_any_batch(make, approximation):
    for kfra, kflr in compare(problem(make, 6), approximation):
        allclose(kfra, kflr)


@pytest.mark.parametrize("loss", [MSE, CATEGORICAL], ids=["squared", "categorical"])
@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@pytest.mark.parametrize("make", [*GRAPHS.values(), *NONLINEAR.values()])
def test_any_graph_is_exact_for_one_example(make, approximation, loss):
    for kfra, kflr in compare(problem(make, 1, "tanh", loss), approximation):
        allclose(kfra, kflr)


@pytest.mark.parametrize("make", [*GRAPHS.values(), *NONLINEAR.values()])
def test_averages_of_several_examples_are_not_exact(make):
    pairs = compare(problem(make, 6, "tanh", CATEGORICAL), "expand")
    assert any(wrong(kfra, kflr, by=1e-4) for kfra, kflr in pairs)


def test_without_the_cross_terms_a_residual_would_be_wrong():
    """The two paths of a skip meet: their cross terms are half of what arrives."""
    given = problem(twice, 5)
    model = given.model()
    [_, second] = [layer for layer in model.layers if isinstance(layer, layers.Dense)]
    [(kfra, _), _] = compare(given, "expand")
    kernel = second.kernel.numpy()
    apart = 2 * kernel @ kernel.T  # J^T G J of each of the two paths, G being the identity
    allclose(kfra, 2 * apart)
    assert wrong(kfra, apart)


def test_two_losses_on_a_trunk_and_a_branch_without_weights():
    def make():
        ACTIVATION["name"] = None
        inputs = keras.Input((4,), dtype="float64")
        hidden = dense(3)(inputs)
        aside = layers.Rescaling(2.0, dtype="float64")(inputs)
        return keras.Model(inputs, [dense(2)(hidden), add(dense(4)(hidden), aside)])

    model = tf_kfgn.enable_curvature(seeded(make)())
    x = np.random.default_rng(0).normal(size=(5, 4))
    with tf_kfgn.CurvatureTape() as tape:
        first, second = model(x)
        tape.watch_loss(MSE, None, first)
        tape.watch_loss(MSE, None, second)
    pairs = zip(
        KFRAEstimator()(tape, SEED).values(), KFLREstimator()(tape, SEED).values(), strict=True
    )
    for kfra, kflr in pairs:
        allclose(kfra.G, kflr.G)
