"""The state of an optimizer in a file: each variable under a name that other versions know.

Keras stores the variables of an optimizer by position, so that one more of them makes older files
useless, and passes over a file of another model with a warning. Here, what a file lacks and
another version may lack keeps its value, and a block that does not fit is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras.optimizers import accumulated_gradients, averages_of_weights
from tf_kfgn.optimizers.variables import MemoryVariables


def named_variables(
    optimizer: keras.optimizers.Optimizer, memory: MemoryVariables
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables of a built optimizer by name.

    Returns:
        Those whose shapes depend on the model, and scalars.
    """
    shaped = memory.by_name()
    kept_by_keras = {
        "model_variables_moving_average": averages_of_weights(optimizer),
        "accumulated_gradients": accumulated_gradients(optimizer),
    }
    for name, kept in kept_by_keras.items():
        shaped |= {f"{name}_{i}": v for i, v in enumerate(kept) if v is not None}
    known = {id(variable) for variable in shaped.values()}
    scalars = {v.name: v for v in optimizer.variables if id(v) not in known}
    return shaped, scalars


def save(optimizer: keras.optimizers.Optimizer, memory: MemoryVariables, store: Any) -> None:
    """Write every variable into a store."""
    shaped, scalars = named_variables(optimizer, memory)
    for name, variable in {**shaped, **scalars}.items():
        value = variable.numpy()
        half = tf.as_dtype(variable.dtype).size < 4  # of which not every store knows
        store[name] = value.astype("float32") if half else value


def load(
    optimizer: keras.optimizers.Optimizer, memory: MemoryVariables, store: Mapping[str, Any]
) -> None:
    """Read every variable from a store, or none if the store belongs to another model.

    Raises:
        ValueError: If the blocks in the store are not those of the optimizer.
    """
    shaped, scalars = named_variables(optimizer, memory)
    found = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118
    for name in found.keys() & shaped.keys():
        found[name] = _whole(found[name], tuple(shaped[name].shape))
    if all(name.isdecimal() for name in found):  # Keras' own names
        reason = "it is that of another kind of optimizer" if found else "there is none"
        warnings.warn(
            f"Skipping the state of the optimizer in the file for {optimizer.name!r}: {reason}.",
            stacklevel=2,
        )
        return
    problems = [
        f"{name} ({_subject(variable)}): "
        + (f"shape {found[name].shape} in the file" if name in found else "not in the file")
        + f", {tuple(variable.shape)} in the optimizer"
        for name, variable in shaped.items()
        if (found[name].shape != tuple(variable.shape) if name in found else not _may_lack(name))
    ]
    problems += [
        f"{name}: shape {value.shape} in the file, not in the optimizer"
        for name, value in found.items()
        if value.shape and name not in shaped and not _may_lack(name)
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"The state in the file does not fit {optimizer.name!r}; nothing of it was loaded. "
            f"{'; '.join(problems[:5])}{more}. Was it saved for another model, with other "
            "arguments of the optimizer, or with other layers frozen?"
        )
    for name, variable in {**shaped, **scalars}.items():
        if name in found:
            variable.assign(tf.cast(found[name], variable.dtype))
    if memory.held is not None or any(_follows(name) and name not in found for name in shaped):
        memory.without_inverses()


def _whole(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The matrix of a factor of which an older version kept the diagonal, as a column."""
    is_column = value.shape[1:] == (1,) and shape == (len(value), len(value))
    return np.diag(value[:, 0]) if is_column else value


def is_inverse(name: str) -> bool:
    """Whether a variable of a block follows from its averages, by its name."""
    return name.startswith("block_") and name.endswith("inverse")


def _follows(name: str) -> bool:
    """Whether the next update makes a variable anew from others, if it inverts all blocks."""
    return is_inverse(name) or name.startswith("mean_direction_")


def _may_lack(name: str) -> bool:
    """Whether a file, or an optimizer, may do without a variable that has the shape of a weight.

    The averages of gradients and steps came after version 0.1.0, and `gradient_decay=0` keeps none.
    New ones start with the next gradient. The last solution of a search is only where the next
    begins. Inverses that replicas hold apart are in no file, and are computed anew, as is what they
    make of the mean gradient.
    """
    return _follows(name) or name.startswith(("mean_gradient_", "reserve_", "cg_solution_"))


def _subject(variable: Any) -> str:
    return str(variable.path.split("/", 1)[-1])
