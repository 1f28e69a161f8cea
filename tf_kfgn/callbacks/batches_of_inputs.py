"""The same batches of a model's inputs again and again, from whatever `fit` takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn.numerics.checks import check_count

BATCH_SIZE = 128


def batches_of_inputs(
    x: Any, batch_size: int | None = None, batches: int | None = None
) -> Callable[[], Iterator[Any]]:
    """A function that starts over with the batches of some data; targets are left out.

    Args:
        x: Arrays (one, or a list or dictionary for several inputs), a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, or anything else that can be iterated over more than once.
        batch_size: Examples in a batch of arrays. Defaults to 128.
        batches: Number of batches; None for all.

    Returns:
        The function. Batches of arrays are drawn at random once: they are the same every time.

    Raises:
        ValueError: If an argument does not fit; the message says what was expected.
    """
    check_count("batch_size", batch_size, optional=True)
    check_count("batches", batches, "a whole number of batches", optional=True)
    if hasattr(x, "__next__"):
        raise ValueError(
            f"`x` must be data that can be gone through again and again, received {x!r}, which "
            "gives each batch once. Pass arrays, a tf.data.Dataset or a keras.utils.PyDataset."
        )
    if isinstance(x, keras.utils.PyDataset):
        _refuse_batch_size(x, batch_size)
        count = _bounded(x, x.num_batches, batches)
        return lambda: (_inputs(x[index]) for index in range(count))
    is_array = hasattr(x, "__array__") or isinstance(x, (list, tuple, dict))
    if is_array:
        return _of_arrays(x, batch_size or BATCH_SIZE, batches)
    if not isinstance(x, Iterable):
        raise ValueError(
            "`x` must be the inputs that fit() is given: arrays, a tf.data.Dataset or a "
            f"keras.utils.PyDataset; received {x!r} of type {type(x).__name__}."
        )
    _refuse_batch_size(x, batch_size)
    if isinstance(x, tf.data.Dataset):
        endless = int(x.cardinality()) == tf.data.INFINITE_CARDINALITY
        _bounded(x, None if endless else 1, batches)
    return lambda: map(_inputs, itertools.islice(x, batches))


def _of_arrays(x: Any, batch_size: int, batches: int | None) -> Callable[[], Iterator[Any]]:
    arrays = keras.tree.map_structure(np.asarray, x)
    lengths = {array.shape[0] if array.ndim else 0 for array in keras.tree.flatten(arrays)}
    if len(lengths) != 1 or 0 in lengths:
        shapes = [array.shape for array in keras.tree.flatten(arrays)]
        raise ValueError(
            "`x` must hold arrays with the same number of examples, at least one, received the "
            f"shapes {shapes}. Arrays of several inputs come in a list or dictionary, and without "
            "targets."
        )
    [examples] = lengths
    # In any other order a batch might hold a single class.
    order = np.random.default_rng(0).permutation(examples)
    if batches is not None:
        order = order[: batches * batch_size]
    places = [np.sort(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    return lambda: (
        keras.tree.map_structure(lambda array, place=place: array[place], arrays)
        for place in places
    )


def _inputs(batch: Any) -> Any:
    inputs, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return inputs


def _bounded(x: Any, known: int | None, batches: int | None) -> int:
    """How many batches there are of data that may be endless."""
    if known is None and batches is None:
        raise ValueError(
            f"`x` is a {type(x).__name__} without an end; say how many `batches` to use."
        )
    return min(count for count in (known, batches) if count is not None)


def _refuse_batch_size(x: Any, batch_size: int | None) -> None:
    if batch_size is not None:
        raise ValueError(
            f"`batch_size` is for arrays; `x` is a {type(x).__name__}, which makes batches itself. "
            f"Leave it out, received {batch_size}."
        )
