"""Kronecker factors of convolutions against the values that other libraries computed."""

from __future__ import annotations

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import loss_hessian, pulled_back, wrong
from passes import factors_of, record
from problems import LOSSES, REFERENCE, Problem, sequential

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
    return [
        layer for layer in layers if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)
    ]


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
    block, kernel = values["block_0"], values["kernel_0"]
    torch_order = np.arange(kernel.size).reshape(kernel.shape).transpose(3, 2, 0, 1).ravel()
    mistaken = block[np.ix_(torch_order, torch_order)]
    assert wrong(mistaken, block[: kernel.size, : kernel.size])


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
    (A, G), (dense_A, dense_G) = factors(GROUPED, KFLREstimator, approximation)
    T = positions(GROUPED)[0] if approximation == "expand" else 1
    of_A, of_G = (values[f"type2_{approximation}_{factor}_0"] for factor in "AG")
    for group, own in enumerate([slice(0, 3), slice(3, 6)]):
        close(G[group], of_G[own, own] / T)
        assert wrong(A[group], T * of_A)
    assert wrong(G[0], of_G[3:, 3:] / T)

    patches = tf.image.extract_patches(
        given.x, (1, 3, 3, 1), (1, 1, 1, 1), (1, 1, 1, 1), "SAME"
    ).numpy()
    apart = patches.reshape(len(given.x), 36, 9, 2, 2)  # taps, groups, channels of a group
    rows = apart.transpose(3, 0, 1, 2, 4).reshape(2, len(given.x), 36, 18)
    rows = np.concatenate([rows, np.ones_like(rows[..., :1])], axis=-1)
    if approximation == "reduce":
        rows = rows.mean(axis=2, keepdims=True)

    def second_moment(rows):
        return np.einsum("nti,ntj->ij", rows, rows) / len(rows)

    close(second_moment(rows.mean(axis=0)), T * of_A)
    for group in range(2):
        close(A[group], second_moment(rows[group]))
    close(dense_A, values[f"type2_{approximation}_A_1"])
    close(dense_G, values[f"type2_{approximation}_G_1"])


# BackPACK


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", BACKPACK)
def test_input_factors_equal_backpack(name, estimator):
    """It sums over all positions, as `expand` does."""
    for index, (A, _) in enumerate(factors(name, estimator, "expand")):
        close(A[:-1, :-1], VALUES[name][f"A_{index}"])
        if positions(name)[index] > 1:
            reduced = factors(name, estimator, "reduce")[index].A
            assert wrong(reduced[:-1, :-1], VALUES[name][f"A_{index}"])
            mistaken = channels_first(A.numpy(), name, index)
            assert wrong(mistaken[:-1, :-1], VALUES[name][f"A_{index}"])


@pytest.mark.parametrize("method", ["kflr", "kfra"])
@pytest.mark.parametrize("name", BACKPACK)
def test_output_factors_equal_backpack(name, method):
    """Its G of a kernel is that of the bias: cotangents summed over positions, as in `reduce`.

    For KFRA this is the sum over all pairs of positions of the average that travels.
    """
    estimator = {"kflr": KFLREstimator, "kfra": KFRAEstimator}[method]
    for index, (_, G) in enumerate(factors(name, estimator, "reduce")):
        expected = VALUES[name][f"{method}_G_{index}"]
        close(G, expected)
        shared = positions(name)[index]
        if shared > 1:  # not the pairs of a position with itself, summed or averaged
            expanded = factors(name, estimator, "expand")[index].G
            assert wrong(expanded, expected)
            assert wrong(shared * expanded, expected)


@pytest.mark.parametrize("name", BACKPACK)
def test_expand_reads_the_diagonal_of_the_average_of_backpack(name):
    """BackPACK itself sums the average, but what it propagates is the same."""
    seen = 0
    for index, (_, G) in enumerate(factors(name, KFRAEstimator, "expand")):
        if positions(name)[index] > 1:
            expected = VALUES[name][f"kfra_expand_G_{index}"]
            close(G, expected)
            assert wrong(VALUES[name][f"kfra_G_{index}"] / positions(name)[index], expected)
            seen += 1
    assert seen == sum(f"kfra_expand_G_{index}" in VALUES[name] for index in range(3))


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@pytest.mark.parametrize("name", BACKPACK)
def test_kfra_is_another_approximation_than_kflr(name, approximation):
    recursive, exact = (factors(name, estimator, approximation) for estimator in ESTIMATORS)
    close(recursive[-1].G, exact[-1].G)  # the recursion has not begun
    assert wrong(recursive[0].G, exact[0].G, by=1e-3)  # a thousand times the tolerance


@pytest.mark.parametrize(
    "name", ["conv_maxpool_backpack", "conv_strided_maxpool_backpack", "conv_avgpool_backpack"]
)
def test_the_average_is_taken_after_every_operation(name):
    """Of BackPACK too: averaging an activation and a maximum together gives another G."""
    given, values = reference(name)
    convolution, activation, pooling, _, dense = given.model().layers
    h = convolution(given.x).numpy()
    a = activation(h).numpy()
    outputs = given.model()(given.x).numpy()
    N, K = outputs.shape
    hessian = loss_hessian(given.loss, given.y, outputs).reshape(N, K, N, K)
    kernel = dense.kernel.numpy()
    average = kernel @ np.einsum("nknl->kl", hessian) @ kernel.T

    def summed(average):
        channels = h.shape[-1]
        pairs = average.reshape(-1, channels, len(average) // channels, channels)
        return np.einsum("sitj->ij", pairs)

    apart = pulled_back(activation, h, pulled_back(pooling, a, average))
    close(summed(apart), values["kfra_G_0"])
    together = pulled_back(lambda h: pooling(activation(h)), h, average)
    is_maximum = isinstance(pooling, keras.layers.MaxPooling2D)
    assert wrong(summed(together), values["kfra_G_0"], by=1e-3) == is_maximum
