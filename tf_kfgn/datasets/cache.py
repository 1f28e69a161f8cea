"""Generated arrays on disk: made once, whole or not at all, and made again if they are damaged."""

from __future__ import annotations

import contextlib
import glob
import os
import pathlib
import warnings
from collections.abc import Callable

import numpy as np

from tf_kfgn.numerics.digests import append_digest, check_digest
from tf_kfgn.numerics.files import PARTIAL, whole_file


def folder(cache_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Where data sets are kept: `cache_dir`, or `datasets` in the folder that Keras uses."""
    if cache_dir is not None:
        return pathlib.Path(os.path.expanduser(cache_dir))
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    return pathlib.Path(os.path.expanduser(home)) / "datasets"


def load_or_make(
    path: pathlib.Path, make: Callable[[], np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    """The array in a file; if there is none, or it cannot be used, make it and write it there.

    The file is an `.npz` archive, followed by the SHA-256 of all of it. A folder that cannot be
    written to costs a warning, not the data.

    Args:
        path: The `.npz` file.
        make: Makes the array, of dtype uint8.
        shape: The array's shape. A file that holds anything else counts as damaged.

    Returns:
        The array, the same whether it was made or read.
    """
    try:
        images = _read(path, shape)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except Exception as error:  # a damaged archive raises nearly anything, down to zlib.error
        warnings.warn(f"{path} cannot be used and is made anew: {error}", stacklevel=3)
    else:
        _remove_leftovers(path)
        return images
    images = make()
    try:
        with whole_file(path) as stream:
            np.savez_compressed(stream, images=images)
            append_digest(stream)
    except OSError as error:
        # Another process may have written the same set, and taken this file for a leftover.
        if not (isinstance(error, FileNotFoundError) and path.is_file()):
            warnings.warn(
                f"The data set could not be kept in {path} and is generated at every load: "
                f"{error}. Pass a `cache_dir` that can be written to.",
                stacklevel=3,
            )
    _remove_leftovers(path)
    return images


def _read(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
    with path.open("rb") as stream:
        check_digest(stream)
        with np.load(stream) as arrays:
            images = arrays["images"]
    if images.shape != shape or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 of shape {shape}, got {images.dtype} of {images.shape}")
    return images


def _remove_leftovers(path: pathlib.Path) -> None:
    """Remove what killed processes left half written of a file."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL}"):
        with contextlib.suppress(OSError):  # no leftover where somebody still writes (Windows)
            leftover.unlink()
