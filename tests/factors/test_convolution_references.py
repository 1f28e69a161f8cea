"""Kronecker factors of convolutions against the values that other libraries computed."""

from __future__ import annotations

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import loss_hessian, pulled_back, wrong
from problems import LOSSES, REFERENCE, Problem, sequential
from recording import factors_of, record

import tf_kfgn
from tf_kfgn.factors import KFLREstimator, KFRAEstimator

MANIFEST = json.loads((REFERENCE / "convolution.json").read_text())
VALUES = {name: dict(np.load(REFERENCE / f"{name}.npz")) for name in MANIFEST}
BACKPACK = [name for name in MANIFEST if name.endswith("_backpack")]
GROUPED = "conv_grouped_curvlinops"
EXACT = {"conv_linear_per_pixel": "expand", "conv_linear_pooled": "reduce"}
TYPE2 = [
    (name, approximation)
    for name in MANIFEST
    for approximation in ("expand", "reduce")
    if name != GROUPED and f"type2_{approximation}_A_0" in VALUES[name]
]
ESTIMATORS = [KFLREstimator, KFRAEstimator]
TOLERANCE = {"rtol": 1e-6, "atol": 1e-12}


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, **TOLERANCE)


def weighted(layers):
    return [layer for layer in layers if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)]


def reference(name):
    """A problem of another library, of stock layers, and the values that it computed."""
    entry, values = MANIFEST[name], VALUES[name]

    def model():
        layers = [
            getattr(keras.layers, kind)(**config, dtype="float64")
            for kind, config in entry["layers"]
        ]
        made = sequential(tuple(entry["input"]), *layers)
        for i, layer in enumerate(weighted(made.layers)):
            layer.set_weights([values[k] for k in (f"kernel_{i}", f"bias_{i}") if k in values])
        return made

    x = values["x"].transpose(0, 2, 3, 1)
    return Problem(name, model, x, values["y"], LOSSES[entry["loss"]]), values


@functools.cache
def factors(name, estimator, approximation):
    return factors_of(reference(name)[0], estimator(approximation))


@functools.cache
def positions(name):
    """Shared positions of each layer with weights."""
    _, tape, _ = record(reference(name)[0])
    return [operation.shared for operation in tape.operations if hasattr(operation, "matrix")]


def channels_first(matrix, name, index):
    """A matrix over the input of a convolution, in the order of torch instead of Keras'."""
    *window, channels, _ = VALUES[name][f"kernel_{index}"].shape
    order = np.arange(np.prod(window) * channels).reshape(*window, channels)
    order = order.transpose(2, 0, 1).ravel()
    order = np.concatenate([order, np.arange(len(order), len(matrix))])
    return matrix[np.ix_(order, order)]


# The problems


@pytest.mark.parametrize("name", MANIFEST)
def test_the_problem_is_that_of_the_other_library(name):
    given, values = reference(name)
    model = given.model()
    np.testing.assert_allclose(given.loss(given.y, model(given.x)), values["loss"], rtol=1e-10)
    mistaken = values["x"].reshape(given.x.shape)  # not transposed
    assert wrong(given.loss(given.y, model(mistaken)), values["loss"], by=1e-4)


def test_every_layer_has_its_weights():
    for name in MANIFEST:
        layers = weighted(reference(name)[0].model().layers)
        assert {f"kernel_{i}" for i in range(len(layers))} == {
            key for key in VALUES[name] if key.startswith("kernel")
        }


# The exact blocks


@pytest.mark.parametrize("name", [name for name in MANIFEST if "block_0" in VALUES[name]])
def test_gauss_newton_blocks_equal_the_references(name):
    given, values = reference(name)
    blocks = tf_kfgn.gauss_newton_blocks(given.model(), given.x, given.loss, given.y)
    assert len(blocks) == len(weighted(given.model().layers))
    for index, block in enumerate(blocks.values()):
        close(block, values[f"block_{index}"])
    # Not the block of a kernel in torch's order.
    kernel = values["kernel_0"]
    order = np.arange(kernel.size).reshape(kernel.shape).transpose(3, 2, 0, 1).ravel()
    assert wrong(values["block_0"][np.ix_(order, order)], blocks.popitem()[1].numpy()[:54, :54]) if (
        len(blocks) == 1
    ) else True


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", EXACT)
def test_a_linear_convolution_is_exact_in_one_of_the_approximations(name, estimator):
    for approximation in ("expand", "reduce"):
        [(A, G)] = factors(name, estimator, approximation)
        if approximation == EXACT[name]:
            close(np.kron(A, G), VALUES[name]["block_0"])
        else:
            assert wrong(np.kron(A, G), VALUES[name]["block_0"])


# curvlinops


@pytest.mark.parametrize(("name", "approximation"), TYPE2)
def test_kflr_equals_curvlinops(name, approximation):
    """Where it divides A by the number of positions, we divide G."""
    other = {"expand": "reduce", "reduce": "expand"}[approximation]
    for index, (A, G) in enumerate(factors(name, KFLREstimator, approximation)):
        of_A, of_G = (VALUES[name][f"type2_{approximation}_{factor}_{index}"] for factor in "AG")
        shared = positions(name)[index]
        T = shared if approximation == "expand" else 1
        close(A, T * of_A)
        close(G, of_G / T)
        close(np.kron(A, G), np.kron(of_A, of_G))
        if shared > 1:
            mistaken = factors(name, KFLREstimator, other)[index]
            assert wrong(mistaken.A, T * of_A)
            assert wrong(mistaken.G, of_G / T)
            assert wrong(channels_first(A.numpy(), name, index), T * of_A)


def test_the_positions_are_those_of_the_output():
    assert positions("conv_categorical") == [36, 4, 1]
    assert positions("conv_categorical_curvlinops") == [36, 4, 1]


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_curvlinops_has_one_block_for_all_groups(approximation):
    """Its A is of the patches averaged over the groups; ours are the groups' own."""
    given, values = reference(GROUPED)
    A, G = factors(GROUPED, KFLREstimator, approximation)[0]
    T = positions(GROUPED)[0]
    scale = T if approximation == "expand" else 1
    of_G = values[f"type2_{approximation}_G_0"] / scale
    channels = G.shape[-1]
    for group in range(2):
        own = slice(group * channels, (group + 1) * channels)
        close(G[group], of_G[own, own])
    assert wrong(G[0], G[1])
    _, tape, _ = record(given)
    rows = tape.operations[0].input_rows_of_groups() if False else _rows(tape.operations[0])
    if approximation == "reduce":
        rows = rows.mean(axis=1, keepdims=True)
    flat = rows.mean(axis=2).reshape(-1, rows.shape[-1])
    of_A = scale * values[f"type2_{approximation}_A_0"]
    close(flat.T @ flat / len(given.x), of_A)
    for group in range(2):
        own = rows[:, :, group].reshape(-1, rows.shape[-1])
        close(own.T @ own / len(given.x), A[group])
        assert wrong(A[group], of_A)
    dense = factors(GROUPED, KFLREstimator, approximation)[1]
    close(dense.A, values[f"type2_{approximation}_A_1"])
    close(dense.G, values[f"type2_{approximation}_G_1"])
