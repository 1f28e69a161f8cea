"""Turning, enlarging, cropping and subsampling, against images that are known everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from tf_kfgn.datasets.warping import ANGLES, SCALES, random_copies, warp


def _plane(size: int, right: float, up: float) -> np.ndarray:
    """An image that rises from its middle: bilinear interpolation of it is exact."""
    rows, columns = np.indices((size, size)) - (size - 1) / 2
    return ((right * columns - up * rows) / size).astype(np.float32)[None]


@pytest.mark.parametrize("size", [25, 64])
@pytest.mark.parametrize("scale", [1.5, 1.8])
@pytest.mark.parametrize("angle", [-90, -30, 0, 45, 90])
def test_a_slope_turns_with_the_image_and_flattens_with_the_scale(
    angle: float, scale: float, size: int
) -> None:
    made = warp(_plane(size, 0.8, 0.3), np.array([angle]), np.array([scale]), 25)
    turn = np.radians(angle)  # counter-clockwise
    right = (0.8 * np.cos(turn) - 0.3 * np.sin(turn)) / scale
    up = (0.8 * np.sin(turn) + 0.3 * np.cos(turn)) / scale
    np.testing.assert_allclose(made, _plane(25, right, up).reshape(1, 625), atol=1e-6)
    backwards = warp(_plane(size, 0.8, 0.3), np.array([-angle]), np.array([scale]), 25)
    assert np.allclose(made, backwards, atol=1e-3) == (angle == 0)


def test_at_the_smallest_scale_a_corner_repeats_at_most_a_third_of_a_pixel() -> None:
    made = warp(_plane(64, 0.8, 0.3), np.array([45.0]), np.array([SCALES[0]]), 25)
    turn = np.radians(45)
    right, up = 0.5 * np.cos(turn) / 1.4, 1.1 * np.sin(turn) / 1.4
    difference = np.abs(made - _plane(25, right, up).reshape(1, 625)).reshape(25, 25)
    assert 1e-5 < difference.max() < 0.8 / 64 / 3
    assert difference[1:-1].max() < 1e-6


def test_subsampling_averages_what_falls_into_a_pixel() -> None:
    stripes = np.zeros((1, 64, 64), np.float32)
    stripes[:, :, ::2] = 1
    made = warp(stripes, np.zeros(1), np.array([1.4]), 25)
    assert np.abs(made - 0.5).max() < 0.3  # a single point a pixel sees stripes from 0 to 1
    assert abs(made.mean() - 0.5) < 0.01


def test_every_image_is_turned_by_its_own_angle() -> None:
    images = np.random.default_rng(0).uniform(size=(3, 64, 64)).astype(np.float32)
    angles, scales = np.array([-70.0, 0.0, 20.0]), np.array([1.4, 1.8, 1.6])
    together = warp(images, angles, scales, 25)
    for position in range(3):
        one = slice(position, position + 1)
        alone = warp(images[one], angles[one], scales[one], 25)
        np.testing.assert_array_equal(together[one], alone)


def test_angles_and_scales_fill_their_ranges() -> None:
    # A copy of a plane tells its angle and scale.
    plane = 0.5 + _plane(64, 0.7, 0.0)
    made = random_copies(plane, 400, 25, np.random.default_rng(0), "planes")[:, 0] / 255 - 0.5
    middle = made.reshape(-1, 25, 25)[:, 6:19, 6:19]
    right = 25 * np.diff(middle, axis=2).mean((1, 2)) / 0.7
    up = -25 * np.diff(middle, axis=1).mean((1, 2)) / 0.7
    angles, scales = np.degrees(np.arctan2(up, right)), 1 / np.hypot(up, right)
    for values, (low, high) in ((angles, ANGLES), (scales, SCALES)):
        tolerance = 0.02 * (high - low)
        assert low - tolerance < values.min() < low + tolerance
        assert high - tolerance < values.max() < high + tolerance
        assert abs(values.mean() - (low + high) / 2) < 0.05 * (high - low)
    assert abs(np.corrcoef(angles, scales)[0, 1]) < 0.15


def test_more_copies_start_with_the_fewer_ones() -> None:
    images = np.random.default_rng(0).uniform(size=(4, 25, 25))
    few = random_copies(images, 2, 25, np.random.default_rng(1), "few")
    many = random_copies(images, 5, 25, np.random.default_rng(1), "many")
    assert few.shape == (2, 4, 625) and few.dtype == np.uint8
    np.testing.assert_array_equal(many[:2], few)
    assert not np.array_equal(many[0], many[1])
