"""MNIST, or any data set in its format, as rows of pixels."""

from __future__ import annotations

import os
import pathlib

import keras
import numpy as np

from tf_kfgn.datasets.idx import Check, read_idx
from tf_kfgn.numerics.checks import check_path

FOLDER_VARIABLE = "MNIST_DIR"  # of the environment: a folder, where no `data_dir` is passed
_STEMS = ("train", "t10k")
_IMAGE = (28, 28)
_LABEL = ()


def load_data(
    data_dir: str | os.PathLike[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The images.

    Args:
        data_dir: Folder with `train-images-idx3-ubyte` and `t10k-images-idx3-ubyte`, plain or
            `.gz`, of MNIST or of a data set in its format. Defaults to the folder that the
            environment variable `MNIST_DIR` names. If that is not set or empty, Keras downloads
            MNIST once.

    Returns:
        `(x_train, x_test)`: float32 arrays of shape `(images, 784)`, ink from 0 to 1; 60,000 and
        10,000 images in the full set.

    Raises:
        ConnectionError: If MNIST is neither on disk nor can be downloaded.
        FileNotFoundError: If the folder lacks a file, or is none.
        ValueError: If a file is damaged, or does not hold images.
    """
    check_path("data_dir", data_dir, optional=True)
    folder = _folder(data_dir)
    if folder is None:
        (train, _), (test, _) = _download()
    else:
        train, test = (_read(folder, f"{stem}-images", _IMAGE) for stem in _STEMS)
    return _rows(train), _rows(test)


def load_labels(
    data_dir: str | os.PathLike[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The classes of the images that `load_data` gives, in the same order.

    Args:
        data_dir: As for `load_data`; with `train-labels-idx1-ubyte` and
            `t10k-labels-idx1-ubyte`.

    Returns:
        `(y_train, y_test)`: int64 arrays of shape `(images,)`, from 0 to 9.

    Raises:
        ConnectionError: If MNIST is neither on disk nor can be downloaded.
        FileNotFoundError: If the folder lacks a file, or is none.
        ValueError: If a file is damaged, or does not hold labels.
    """
    check_path("data_dir", data_dir, optional=True)
    folder = _folder(data_dir)
    if folder is None:
        (_, train), (_, test) = _download()
    else:
        train, test = (_read(folder, f"{stem}-labels", _LABEL) for stem in _STEMS)
    return train.astype(np.int64), test.astype(np.int64)


def _folder(data_dir: str | os.PathLike[str] | None) -> pathlib.Path | None:
    """The folder that is passed, or named by the environment, or None."""
    if data_dir is not None:
        return pathlib.Path(data_dir)
    named = os.environ.get(FOLDER_VARIABLE)
    if not named:
        return None
    folder = pathlib.Path(named).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The environment variable {FOLDER_VARIABLE} names {folder}, which is no folder. "
            "Set it to one with MNIST's four IDX files, or unset it."
        )
    return folder


def _download() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    try:
        return keras.datasets.mnist.load_data()
    except Exception as error:  # Keras raises a plain Exception when a download fails
        raise ConnectionError(
            f"Keras could not download MNIST ({error}). Without a network, pass `data_dir`, or "
            f"set the environment variable {FOLDER_VARIABLE}: a folder with the four IDX files of "
            "MNIST or of a data set in its format. Debian's "
            "package dataset-fashion-mnist holds one: `apt-get install dataset-fashion-mnist`, "
            "and `dpkg -L dataset-fashion-mnist` shows its folder."
        ) from error


def _read(folder: pathlib.Path, kind: str, example_shape: tuple[int, ...]) -> np.ndarray:
    rank = 1 + len(example_shape)
    stem, old_stem = f"{kind}-idx{rank}-ubyte", f"{kind}.idx{rank}-ubyte"
    for name in (stem, f"{stem}.gz", old_stem, f"{old_stem}.gz"):
        if (folder / name).is_file():
            return read_idx(folder / name, _expecting(folder / name, example_shape))
    raise FileNotFoundError(
        f"{folder} has no file {stem} or {stem}.gz. Pass a folder with MNIST's four IDX files, "
        f"or name it in the environment variable {FOLDER_VARIABLE}."
    )


def _expecting(path: pathlib.Path, example_shape: tuple[int, ...]) -> Check:
    """A check of the header of a file."""

    def check(dtype: np.dtype, shape: tuple[int, ...]) -> None:
        if len(shape) != 1 + len(example_shape) or shape[1:] != example_shape or dtype != np.uint8:
            expected = ", ".join(map(str, ("examples", *example_shape)))
            raise ValueError(
                f"{path} must hold uint8 of shape ({expected}), holds {dtype} of shape {shape}. "
                "Pass a folder with a data set in MNIST's format."
            )

    return check


def _rows(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
