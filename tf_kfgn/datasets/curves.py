"""CURVES: 28 x 28 images of one smooth curve through three random points.

The deep-autoencoder benchmark of Hinton & Salakhutdinov (2006) and Martens (2010) uses a file,
`digs3pts_1.mat`, that is not always at hand. The generated set is a stand-in for it: the task is
of the same kind (six degrees of freedom, anti-aliased strokes, the same size), but its
reconstruction errors are not those of published tables.
"""

from __future__ import annotations

import numbers
import os
import pathlib

import numpy as np

from tf_kfgn.analysis.progress import follow
from tf_kfgn.datasets import cache, matlab
from tf_kfgn.numerics.checks import check_count, check_path

_SIDE = 28
_MARGIN = 3.0  # pixels between the three points and the border
_PEN_RADIUS = 0.9  # pixels from the middle of the stroke to half ink
_SEGMENTS = 24  # of the polyline that stands for a curve
_CHUNK = 16  # images drawn at once: small enough for the processor's cache
_VERSION = 1  # of the generator: part of the name of the cached file
_ADVICE = "Pass the original digs3pts_1.mat, or leave `path` out to generate curves."


def load_data(
    path: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    train_size: int = 20_000,
    test_size: int = 10_000,
    cache_dir: str | os.PathLike[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The curves, generated in seconds and cached, or read from the original file.

    The generated set is a stand-in for the original: its errors are not those of published
    tables.

    Args:
        path: The original `digs3pts_1.mat`, with the keys `bdata` and `bdatatest`; needs scipy
            (or h5py, for version 7.3). With it, the other arguments are not looked at.
        seed: Seed of the generator, a non-negative integer.
        train_size: Number of training images.
        test_size: Number of test images.
        cache_dir: Folder for the generated set, kept with 8 bits a pixel (3 MB at the default
            sizes). Defaults to `datasets` in Keras' own folder, `KERAS_HOME` or `~/.keras`. If
            it cannot be written to, a warning says so and the set is returned all the same.

    Returns:
        `(x_train, x_test)`: float32 arrays of shape `(images, 784)`, ink from 0 to 1. The
        numbers are the same whether the set was generated or read from the cache.

    Raises:
        FileNotFoundError: If there is no file at `path`.
        ImportError: If `path` is given and what reads it is not installed.
        ValueError: If the file does not hold the curves, or a size or the seed is out of range.
    """
    check_path("path", path, optional=True)
    check_path("cache_dir", cache_dir, optional=True)
    if path is not None:
        return _read_original(pathlib.Path(path))
    check_count("train_size", train_size, kind=numbers.Integral)
    check_count("test_size", test_size, kind=numbers.Integral)
    check_count("seed", seed, low=0, kind=numbers.Integral)
    # NumPy's narrow integers would overflow in the sum of the sizes.
    seed, train_size, test_size = int(seed), int(train_size), int(test_size)
    name = f"curves-v{_VERSION}-seed{seed}-{train_size}-{test_size}.npz"
    images = cache.load_or_make(
        cache.folder(cache_dir) / name,
        lambda: _draw(_random_points(np.random.default_rng(seed), train_size + test_size)),
        shape=(train_size + test_size, _SIDE * _SIDE),
    )
    pixels = images.astype(np.float32) / np.float32(255)
    return pixels[:train_size], pixels[train_size:]


def _read_original(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    names = ("bdata", "bdatatest")
    train, test = matlab.read_arrays(path, names, _ADVICE)
    return _check_rows(train, names[0], path), _check_rows(test, names[1], path)


def _check_rows(array: np.ndarray, name: str, path: pathlib.Path) -> np.ndarray:
    if array.ndim != 2 or array.shape[1] != _SIDE * _SIDE or not len(array):
        raise ValueError(
            f"{name!r} in {path} must have shape (images, 784), has {array.shape}. {_ADVICE}"
        )
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # also where there are NaNs
        raise ValueError(
            f"{name!r} in {path} must hold ink from 0 to 1, holds {low} to {high}. {_ADVICE}"
        )
    return array.astype(np.float32)


def _random_points(generator: np.random.Generator, count: int) -> np.ndarray:
    """Three points for each image, in pixels; shape `(count, 3, 2)`."""
    return generator.uniform(_MARGIN, _SIDE - _MARGIN, (count, 3, 2))


def _draw(points: np.ndarray) -> np.ndarray:
    """Images of the parabolas through three points each, uint8 of shape `(count, 784)`."""
    centres = np.arange(_SIDE, dtype=np.float32) + np.float32(0.5)
    rows, columns = np.meshgrid(centres, centres, indexing="ij")
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=1)
    images = np.empty((len(points), _SIDE * _SIDE), np.uint8)
    starts = range(0, len(points), _CHUNK)
    for start in follow(starts, len(starts), "curves"):
        polylines = _parabolas(points[start : start + _CHUNK]).astype(np.float32)
        ink = np.clip(_PEN_RADIUS + 0.5 - _distances(pixels, polylines), 0, 1)
        images[start : start + _CHUNK] = np.rint(255 * ink)
    return images


def _parabolas(points: np.ndarray) -> np.ndarray:
    """Polylines along the parabolas through three points, shape `(count, segments + 1, 2)`.

    The middle point is passed at the time that the lengths of the two chords suggest, which keeps
    the curve near its points.
    """
    first, middle, last = points[:, 0], points[:, 1], points[:, 2]
    chords = np.linalg.norm(middle - first, axis=1), np.linalg.norm(last - middle, axis=1)
    when = np.clip(chords[0] / np.maximum(chords[0] + chords[1], 1e-9), 0.2, 0.8)[:, None, None]
    t = np.linspace(0, 1, _SEGMENTS + 1)[:, None]
    weights = (
        (t - when) * (t - 1) / when,
        t * (t - 1) / (when * (when - 1)),
        t * (t - when) / (1 - when),
    )
    return sum(w * p[:, None] for w, p in zip(weights, (first, middle, last), strict=True))


def _distances(pixels: np.ndarray, polylines: np.ndarray) -> np.ndarray:
    """Distance of every pixel from every polyline, shape `(count, pixels)`."""
    starts = polylines[:, :-1].reshape(-1, 2)
    along = polylines[:, 1:].reshape(-1, 2) - starts
    length = np.maximum(_inner(along, along), 1e-12)
    # Where the foot of the perpendicular falls on each segment: 0 at its start, 1 at its end.
    foot = (pixels @ along.T - _inner(starts, along)) / length
    on_segment = np.clip(foot, 0, 1)
    squared = on_segment * (on_segment - 2 * foot) * length
    squared += _inner(pixels, pixels)[:, None] + _inner(starts, starts)
    squared -= 2 * pixels @ starts.T
    nearest = squared.reshape(len(pixels), len(polylines), -1).min(axis=2)
    return np.sqrt(np.maximum(nearest, 0)).T


def _inner(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.einsum("ik,ik->i", left, right)
