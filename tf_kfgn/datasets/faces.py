"""FACES: 25 x 25 patches of faces, turned and enlarged at random.

The deep-autoencoder benchmark of Hinton & Salakhutdinov, "Reducing the dimensionality of data with
neural networks" (Science, 2006; the recipe is in its supporting material) and of Martens (2010)
uses a file, `newfaces_rot_single.mat`, with 414 patches of each of the 400 Olivetti faces: ten
photographs of each of 40 people. Without the file a set of the same kind is made by the same recipe
from the same photographs, or a stand-in from others.
"""

from __future__ import annotations

import numbers
import os
import pathlib

import numpy as np

from tf_kfgn.datasets import cache, matlab
from tf_kfgn.datasets.face_sources import SOURCES
from tf_kfgn.datasets.warping import random_copies
from tf_kfgn.numerics.checks import check_count, check_path

_SIDE = 25
_PIXELS = _SIDE * _SIDE
_PEOPLE, _TRAIN_PEOPLE, _TEST_PEOPLE = 40, 25, 10  # the five between are for validation
_NAME = "newfaces_single"
_MEAN_SQUARES = (0.1, 10.0)  # of pixels that are standardised, with room for any convention
_VERSION = 1  # of the generator: part of the name of the cached file
_ADVICE = "Pass the original newfaces_rot_single.mat, or leave `path` out to make a set."


def load_data(
    path: str | os.PathLike[str] | None = None,
    *,
    source: str = "olivetti",
    images_per_face: int = 414,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The faces, read from the original file, or made from photographs and cached.

    A photograph is turned by -90 to 90 degrees and enlarged 1.4 to 1.8 times, both drawn uniformly;
    the middle of its old size is cut out and subsampled to 25 x 25 pixels. Then the mean of every
    pixel is taken away, and all is divided by one number that makes the mean variance of a pixel
    one. Mean and variance are those of the training images. The paper does not say how much it cut
    out; the old size is the most that a photograph fills at every angle.

    Only the original gives the numbers of published tables. What is made from the Olivetti faces
    has other angles, scales and crops of the same photographs.

    Args:
        path: The original `newfaces_rot_single.mat`, with the key `newfaces_single` of shape
            `(625, images)`: the first 25/40 of its 165,600 columns are for training and the last
            10/40 for testing, as Martens (2010) uses them. Needs scipy (or h5py, for version 7.3).
            With it, the other arguments are not looked at, and the values stay as they are.
        source: The photographs. `"olivetti"`: the 400 Olivetti faces, which scikit-learn downloads
            once; the first 25 people are for training, the last 10 for testing and the five between
            for validation, which is not made. `"stand-in"`: the 100 faces of "Labeled Faces in the
            Wild" that come with scikit-image, 75 for training and 25 for testing, for where there
            is no network. Who they show is not known there, so that a person may be in both parts,
            and they have 25 x 25 pixels, so that details are blurred: errors on this stand-in
            compare with no others.
        images_per_face: Number of images made of each photograph. The default is the original's,
            165,600 / 400: 103,500 and 41,400 images of the Olivetti faces (360 MB), 31,050 and
            10,350 of the stand-in (100 MB).
        seed: Seed of angles and scales, a non-negative integer.
        cache_dir: Folder for the set that is made, kept with 8 bits a pixel and a checksum (at most
            91 MB for the Olivetti faces, 26 MB for the stand-in). Defaults to `datasets` in Keras'
            own folder, `KERAS_HOME` or `~/.keras`. If it cannot be written to, a warning says so
            and the set is returned all the same.

    Returns:
        `(x_train, x_test)`: float32 arrays of shape `(images, 625)`, in standard deviations of a
        pixel. Of a set that is made, the rows go through all photographs before one comes again,
        and the numbers are the same whether it was made or read from the cache.

    Raises:
        ConnectionError: If the Olivetti faces are neither on disk nor can be downloaded.
        FileNotFoundError: If there is no file at `path`.
        ImportError: If what reads the file or has the photographs is not installed.
        ValueError: If the file does not hold the faces, or an argument is out of range.
    """
    check_path("path", path, optional=True)
    check_path("cache_dir", cache_dir, optional=True)
    if path is not None:
        return _read_original(pathlib.Path(path))
    _check_source(source)
    check_count("images_per_face", images_per_face, kind=numbers.Integral)
    check_count("seed", seed, low=0, kind=numbers.Integral)
    images_per_face, seed = int(images_per_face), int(seed)
    photographs = SOURCES[source]
    images = cache.load_or_make(
        cache.folder(cache_dir) / f"faces-{source}-v{_VERSION}-seed{seed}-{images_per_face}.npz",
        lambda: random_copies(
            photographs.read(),
            images_per_face,
            _SIDE,
            np.random.default_rng(seed),
            photographs.title,
        ),
        shape=(images_per_face, photographs.train_faces + photographs.test_faces, _PIXELS),
    )
    return _standardise(
        images[:, : photographs.train_faces].reshape(-1, _PIXELS),
        images[:, photographs.train_faces :].reshape(-1, _PIXELS),
    )


def title(path: str | os.PathLike[str] | None = None, *, source: str = "olivetti") -> str:
    """What to call the set that `load_data` gives for these arguments, in a figure or a table.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_path("path", path, optional=True)
    if path is not None:
        return "FACES"
    _check_source(source)
    return SOURCES[source].title


def _check_source(source: str) -> None:
    if not isinstance(source, str) or source not in SOURCES:
        raise ValueError(
            f"`source` must be {' or '.join(map(repr, SOURCES))}, received {source!r}."
        )


def _read_original(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    (columns,) = matlab.read_arrays(path, [_NAME], _ADVICE)
    what = f"{_NAME!r} in {path}"
    count = columns.shape[-1]
    if columns.shape != (_PIXELS, count) or not count or count % _PEOPLE:
        raise ValueError(
            f"{what} must have shape (625, 165600), or (625, a multiple of {_PEOPLE}), has "
            f"{columns.shape}. {_ADVICE}"
        )
    train = _rows(columns[:, : count // _PEOPLE * _TRAIN_PEOPLE])
    test = _rows(columns[:, -(count // _PEOPLE * _TEST_PEOPLE) :])
    for rows in (train, test):
        squares = np.einsum("ij,ij->", rows, rows, dtype=np.float64) / rows.size
        if not _MEAN_SQUARES[0] <= squares <= _MEAN_SQUARES[1]:  # also where there are NaNs
            raise ValueError(
                f"{what} must hold pixels of mean zero and variance one, the mean of their squares "
                f"is {squares:.3g}. {_ADVICE}"
            )
    return train, test


def _rows(columns: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(columns.T, dtype=np.float32)


def _standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale uint8 rows by the means and the mean variance of the training rows."""
    mean = train.mean(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->j", train, train, dtype=np.float64) / len(train)
    deviation = np.sqrt(np.mean(squares - mean**2))

    def standardised(images: np.ndarray) -> np.ndarray:
        rows = images.astype(np.float32)
        rows -= mean.astype(np.float32)
        rows /= np.float32(deviation)
        return rows

    return standardised(train), standardised(test)
