"""One file with the values of many variables, which is whole or not there at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_kfgn.numerics.digests import append_digest, check_digest
from tf_kfgn.numerics.files import whole_file


def write(path: Path, variables: Sequence[Any]) -> None:
    """Save the values of variables; a process that is killed here leaves the old file, or none.

    The file is an `.npz` archive, followed by the SHA-256 of all of it.

    Args:
        path: A file in a local folder; the folder is made where it does not exist.
        variables: Keras variables.
    """
    values = {str(position): variable.numpy() for position, variable in enumerate(variables)}
    with whole_file(path) as file:
        np.savez(file, **values)
        append_digest(file)


def read(path: Path, variables: Sequence[Any]) -> list[np.ndarray]:
    """Read values for variables, which stay as they are.

    Args:
        path: A file that `write` wrote.
        variables: Keras variables of the same shapes and types, in the same order.

    Returns:
        A value for each variable.

    Raises:
        OSError: If the file is damaged.
        ValueError: If it is whole, but belongs to other variables.
    """
    try:
        with path.open("rb") as file:
            check_digest(file)
            with np.load(file, allow_pickle=False) as archive:
                values = [archive[str(position)] for position in range(len(archive.files))]
    except OSError as error:
        raise OSError(f"The backup {path} is damaged: {error}") from error
    if len(values) != len(variables):
        raise ValueError(
            f"The backup {path} holds {len(values)} variables, but the model and its optimizer "
            f"have {len(variables)}."
        )
    return [
        _fitting(value, variable, path) for value, variable in zip(values, variables, strict=True)
    ]


def _fitting(value: np.ndarray, variable: Any, path: Path) -> np.ndarray:
    dtype = np.dtype(tf.as_dtype(variable.dtype).as_numpy_dtype)
    if value.dtype.kind == "V" and value.dtype.itemsize == dtype.itemsize:
        value = value.view(dtype)  # NumPy's format does not know the name of bfloat16
    if value.shape != tuple(variable.shape) or value.dtype != dtype:
        raise ValueError(
            f"The backup {path} is of another model or optimizer: {variable.path!r} has shape "
            f"{tuple(variable.shape)} and type {dtype}, the backup {value.shape} and {value.dtype}."
        )
    return value
