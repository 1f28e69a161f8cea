"""Arrays of MATLAB files, old ones and those that are HDF5 inside (version 7.3)."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HDF5_PLACES = (0, 512)  # MATLAB writes a block of its own before it


def read_arrays(path: pathlib.Path, names: Sequence[str], advice: str) -> list[np.ndarray]:
    """Read arrays of real numbers.

    Args:
        path: The `.mat` file. Its content shows its version, not its name.
        names: Names of arrays in it.
        advice: What a reader of an error can do: a sentence or two.

    Returns:
        The arrays, in the order of their names, each with the shape that MATLAB shows.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If what reads it is not installed: h5py for version 7.3, else scipy.
        ValueError: If the file is damaged or of another format, lacks a name, or holds something
            else under it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. {advice}")
    read = _read_hdf5 if _is_hdf5(path) else _read_older
    try:
        found = read(path, names)
    except ImportError as error:
        library = "h5py" if read is _read_hdf5 else "scipy"
        raise ImportError(
            f"Reading {path} needs {library}: `pip install tf_kfgn[examples]`."
        ) from error
    except Exception as error:  # of many kinds for a file that is not what it says
        message = f"{path} is not a MATLAB file that can be read ({error}). {advice}"
        raise ValueError(message) from error
    for name in names:
        if name not in found:
            raise ValueError(f"{path} has no array {name!r}. {advice}")
        array = found[name]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif":
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(
                f"{name!r} in {path} must be a dense array of real numbers, is of type {kind}. "
                f"{advice}"
            )
    return [found[name] for name in names]


def _is_hdf5(path: pathlib.Path) -> bool:
    with path.open("rb") as file:
        start = file.read(max(_HDF5_PLACES) + len(_HDF5_MAGIC))
    return any(start[place:].startswith(_HDF5_MAGIC) for place in _HDF5_PLACES)


def _read_older(path: pathlib.Path, names: Sequence[str]) -> dict[str, Any]:
    import scipy.io

    return scipy.io.loadmat(path, variable_names=names)


def _read_hdf5(path: pathlib.Path, names: Sequence[str]) -> dict[str, Any]:
    import h5py

    with h5py.File(path, "r") as file:
        return {name: _value(file[name]) for name in names if name in file}


def _value(item: Any) -> Any:
    """An array with its axes as in MATLAB, which stores the first one fastest; a group as it is."""
    return np.asarray(item[()]).T if hasattr(item, "dtype") else item
