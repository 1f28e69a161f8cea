"""Averages at spatial offsets against brute force, and against the library at offset 0."""

from __future__ import annotations

import itertools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "benchmarks"
SIZES = (4, 5)


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch):
    pytest.importorskip("sklearn", reason="the extra `examples` is not installed")
    monkeypatch.syspath_prepend(FOLDER)


def averages(offsets, channels):
    """Matrices for offsets; those of opposite ones are each other's transpose."""
    generator = np.random.default_rng(0)
    drawn = {offset: generator.normal(size=(channels, channels)) for offset in offsets}
    return {(i, j): drawn[i, j] + drawn[-i, -j].T for i, j in offsets}


def expanded(behind, sizes, channels):
    """The covariance of all features that averages stand for."""
    whole = np.zeros((*sizes, channels, *sizes, channels))
    for i, j, k, m in itertools.product(*map(range, (*sizes, *sizes))):
        if (k - i, m - j) in behind:
            whole[i, j, :, k, m] = behind[k - i, m - j]
    return whole.reshape(2 * [np.prod(sizes) * channels])


def assert_means(found, whole, sizes, channels):
    blocks = whole.reshape(*sizes, channels, *sizes, channels)
    for (di, dj), mean in found.items():
        pairs = [
            blocks[i, j, :, i + di, j + dj]
            for i, j in itertools.product(*map(range, sizes))
            if 0 <= i + di < sizes[0] and 0 <= j + dj < sizes[1]
        ]
        np.testing.assert_allclose(mean, np.mean(pairs, axis=0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_a_convolution_gives_the_means_of_what_its_transpose_makes(radius):
    import spatial_offsets

    kernel = np.random.default_rng(1).normal(size=(3, 3, 2, 3))
    behind = averages(spatial_offsets.offsets(radius), 3)
    found = spatial_offsets.through_convolution(kernel, behind, SIZES, radius)
    units = np.eye(np.prod(SIZES) * 2).reshape(-1, *SIZES, 2)
    jacobian = tf.nn.conv2d(units, kernel, 1, "SAME").numpy().reshape(len(units), -1)
    assert_means(found, jacobian @ expanded(behind, SIZES, 3) @ jacobian.T, SIZES, 2)


@pytest.mark.parametrize("pool", [1, 2])
def test_factors_and_windows_give_the_means_of_all_examples(pool):
    import spatial_offsets

    sizes = (4, 6)
    factors = np.random.default_rng(2).normal(size=(3, *sizes, 2))
    behind = averages(spatial_offsets.offsets(1), 2)
    found = spatial_offsets.through_factors(factors, behind, pool, 2)
    small = expanded(behind, [size // pool for size in sizes], 2)
    copies = np.kron(
        np.kron(*(np.repeat(np.eye(size // pool), pool, axis=0) for size in sizes)), np.eye(2)
    )
    flat = factors.reshape(3, -1)
    assert_means(found, copies @ small @ copies.T * (flat.T @ flat / 3), sizes, 2)


def linear_net():
    return keras.Sequential(
        [
            keras.Input((*SIZES, 2)),
            keras.layers.Conv2D(3, 3, padding="same", name="first", dtype="float64"),
            keras.layers.Conv2D(2, 3, padding="same", dtype="float64"),
            keras.layers.GlobalAveragePooling2D(dtype="float64"),
            keras.layers.Dense(2, dtype="float64"),
        ]
    )


def test_a_window_before_a_global_average_needs_the_offsets_between_its_taps():
    """Taps are up to 2 apart: radius 2 is exact, less is not."""
    import spatial_offsets

    model = linear_net()
    x = np.random.default_rng(3).normal(size=(4, *SIZES, 2))
    exact = tf_kfgn.kronecker_factors(model, x, "mse", "kflr", y=np.zeros((4, 2)))["first"].G
    _, second, _, dense = model.layers
    kernel = dense.kernel.numpy()
    mean = kernel @ kernel.T / np.prod(SIZES) ** 2  # the loss has curvature 2/2
    errors = []
    for radius in range(3):
        behind = {offset: mean for offset in spatial_offsets.offsets(radius)}
        found = spatial_offsets.through_convolution(second.kernel.numpy(), behind, SIZES, 0)
        errors.append(np.linalg.norm(found[0, 0] - exact) / np.linalg.norm(exact))
    assert errors[0] > errors[1] > 0.1
    assert errors[2] < 1e-9


def test_offset_zero_is_what_the_library_carries():
    import spatial_offsets

    model = spatial_offsets.plain(keras.layers.GlobalAveragePooling2D)
    x = np.random.default_rng(4).normal(size=(5, 28, 28, 1)).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    factors = tf_kfgn.kronecker_factors(model, x, loss, "kfra", spatial="uncorrelated")
    found = spatial_offsets.output_factors(model, x, 0)
    assert len(found) == 3
    for name, G in found.items():
        np.testing.assert_allclose(G, factors[name].G, rtol=1e-4, atol=1e-5 * np.abs(G).max())
    wider = spatial_offsets.output_factors(model, x, 1)
    assert np.linalg.norm(wider["conv1"] - found["conv1"]) > 0.01 * np.linalg.norm(found["conv1"])
