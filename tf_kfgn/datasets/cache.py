"""Generated arrays on disk: made once, whole or not at all, and made again if they are damaged."""

from __future__ import annotations

import os
import pathlib
import tempfile
import warnings
import zipfile
from collections.abc import Callable

import numpy as np

_KEY = "images"


def folder(cache_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Where data sets are kept: `cache_dir`, or `datasets` in the folder that Keras uses."""
    if cache_dir is not None:
        return pathlib.Path(cache_dir)
    home = os.environ.get("KERAS_HOME")
    return (pathlib.Path(home) if home else pathlib.Path.home() / ".keras") / "datasets"


def load_or_make(path: pathlib.Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in a file; if there is none, or it cannot be read, make it and write it there.

    A folder that cannot be written to costs a warning, not the data.
    """
    try:
        with np.load(path) as arrays:
            return arrays[_KEY]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        warnings.warn(f"{path} is damaged and is made anew: {error}", stacklevel=3)
    array = make()
    try:
        _write_whole(path, array)
    except OSError as error:
        warnings.warn(f"Could not keep the data set in {path}: {error}", stacklevel=3)
    return array


def _write_whole(path: pathlib.Path, array: np.ndarray) -> None:
    """Write beside the file and rename, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            np.savez_compressed(stream, **{_KEY: array})
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
