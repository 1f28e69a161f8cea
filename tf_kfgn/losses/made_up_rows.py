"""Whether a loss of which nothing is known has a second derivative: tried on made-up rows."""

from __future__ import annotations

import concurrent.futures
import weakref
from collections.abc import Hashable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras.losses import loss_function
from tf_kfgn.losses.row_losses import RowLosses

_ROWS = 8
_DISTANCES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # of outputs from targets
# What was found, by loss and by types and shapes: where no graph is traced, every update asks.
_FOUND: weakref.WeakKeyDictionary[Any, dict[Hashable, bool]] = weakref.WeakKeyDictionary()


@tf.autograph.experimental.do_not_convert
def is_piecewise_linear(loss: keras.losses.Loss, y: Any, outputs: tf.Tensor) -> bool:
    """Whether the second derivative of a loss is zero wherever it was tried.

    A graph that is being traced has no numbers to look at, so the loss is run on made-up targets
    and outputs, at all distances from each other.

    Args:
        loss: A Keras loss object.
        y: Targets, whose shape and type count.
        outputs: What the loss takes, whose shape and type count.

    Returns:
        Whether it is; False where the loss cannot be run on such rows.
    """
    y = tf.convert_to_tensor(y)
    shapes = (y.shape[1:], outputs.shape[1:])
    if y.shape.rank is None or not all(shape.is_fully_defined() for shape in shapes):
        return False
    found, kind = _found(loss), (y.dtype, outputs.dtype, *map(tuple, shapes))
    if kind not in found:
        found[kind] = _tried(loss, y.dtype, outputs.dtype, shapes)
    return found[kind]


def _found(loss: keras.losses.Loss) -> dict[Hashable, bool]:
    """What was found of a loss before."""
    function, options = loss_function(loss)  # which is wrapped anew by each call
    try:
        return _FOUND.setdefault(loss if function is None or options else function, {})
    except TypeError:  # what no dictionary can have
        return {}


def _tried(loss: keras.losses.Loss, y_dtype: tf.DType, dtype: tf.DType, shapes: Any) -> bool:
    def curves() -> bool:
        rows = _made_up_rows(y_dtype, dtype, *shapes)
        return any(_curves(loss, *row) for row in rows)

    # Another thread is in no graph, and no tape is stopped there.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        try:
            return not thread.submit(curves).result()
        except Exception:  # whatever a loss of the user's says to rows unlike its data
            return False


def _made_up_rows(
    y_dtype: tf.DType, dtype: tf.DType, y_shape: Any, shape: Any
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Targets and outputs."""
    draw = np.random.default_rng(0)
    normal = draw.normal(size=(_ROWS, *y_shape))
    targets = [normal, np.sign(normal), np.float64(normal > 0), draw.uniform(size=normal.shape)]
    if not y_dtype.is_floating:
        targets = targets[2:3]
    for target in targets:
        y = tf.cast(target, y_dtype)
        for distance in _DISTANCES:
            near = np.zeros((_ROWS, *shape))
            if near.shape == target.shape:
                near += target
            yield y, tf.cast(near + distance * draw.normal(size=near.shape), dtype)
        yield y, tf.cast(draw.uniform(0.01, 0.99, size=(_ROWS, *shape)), dtype)


def _curves(loss: keras.losses.Loss, y: tf.Tensor, outputs: tf.Tensor) -> bool:
    vector = np.random.default_rng(1).normal(size=outputs.shape)
    curved = RowLosses(loss, y, outputs).product(tf.cast(vector, loss.dtype))
    return bool(tf.reduce_any(tf.math.is_finite(curved) & (curved != 0)))
