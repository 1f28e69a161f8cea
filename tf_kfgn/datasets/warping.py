"""Images turned, enlarged, cropped and subsampled at random, as FACES was made."""

from __future__ import annotations

import math

import numpy as np

from tf_kfgn.analysis.progress import follow

ANGLES = (-90.0, 90.0)  # degrees, counter-clockwise
SCALES = (1.4, 1.8)
_CHUNK = 25  # images that are copied at once: small enough for the processor's cache


def random_copies(
    images: np.ndarray, copies: int, side: int, generator: np.random.Generator, label: str
) -> np.ndarray:
    """Copies of images at angles and scales that are drawn uniformly from `ANGLES` and `SCALES`.

    Args:
        images: Intensities from 0 to 1, float array of shape `(images, size, size)`.
        copies: Number of copies of each image.
        side: Height and width of a copy, in pixels.
        generator: Draws angles and scales, those of a whole round of copies after each other.
        label: Of the bar of progress.

    Returns:
        uint8 array of shape `(copies, images, side * side)`, with 255 for an intensity of 1.
    """
    count = len(images)
    images = images.astype(np.float32)
    made = np.empty((copies, count, side * side), np.uint8)
    for position in follow(range(copies), copies, label):
        angles = generator.uniform(*ANGLES, count)
        scales = generator.uniform(*SCALES, count)
        for start in range(0, count, _CHUNK):
            some = slice(start, start + _CHUNK)
            copied = warp(images[some], angles[some], scales[some], side)
            made[position, some] = np.rint(255 * copied)
    return made


def warp(images: np.ndarray, angles: np.ndarray, scales: np.ndarray, side: int) -> np.ndarray:
    """Turn and enlarge each image about its middle, crop it to its old size, and subsample it.

    A pixel of the result is the mean of bilinear interpolations at a grid of points, close enough
    that no pixel of the image falls between them. From a scale of √2 on, no corner of the image is
    seen at any angle; what little is missing at 1.4 repeats the border.

    Args:
        images: float32 array of shape `(images, size, size)`.
        angles: Degrees, counter-clockwise, shape `(images,)`.
        scales: Enlargement, shape `(images,)`.
        side: Height and width of the result, in pixels.

    Returns:
        float32 array of shape `(images, side * side)`.
    """
    count, size = images.shape[:2]
    points = math.ceil(size / (side * SCALES[0]))  # in each direction, for a pixel of the result
    grid = (np.arange(points * side) + 0.5) / (points * side) - 0.5  # from border to border
    down, right = grid.astype(np.float32)[:, None], grid.astype(np.float32)
    # The inverse map: where each point of the result comes from.
    step = size / scales
    cosine = (step * np.cos(np.radians(angles))).astype(np.float32)[:, None, None]
    sine = (step * np.sin(np.radians(angles))).astype(np.float32)[:, None, None]
    middle = np.float32((size - 1) / 2)
    row = sine * right + cosine * down + middle
    column = cosine * right - sine * down + middle
    values = _interpolate(images, row, column)
    return values.reshape(count, side, points, side, points).mean((2, 4)).reshape(count, -1)


def _interpolate(images: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Bilinear interpolation between the middles of pixels; all shapes start with the images."""
    count, size = images.shape[:2]
    row, column = np.clip(row, 0, size - 1), np.clip(column, 0, size - 1)
    top = np.minimum(row.astype(np.int32), size - 2)
    left = np.minimum(column.astype(np.int32), size - 2)
    below, beside = row - top.astype(np.float32), column - left.astype(np.float32)
    corner = (np.arange(count, dtype=np.int32)[:, None, None] * size + top) * size + left
    pixels = images.ravel()
    upper = pixels[corner]
    upper += (pixels[corner + 1] - upper) * beside
    lower = pixels[corner + size]
    lower += (pixels[corner + size + 1] - lower) * beside
    return upper + (lower - upper) * below
