"""What layers along spatial axes do along one of them, as matrices of shape `(outputs, inputs)`."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


def spatial_sizes(shape: tf.TensorShape, data_format: str | None) -> list[int]:
    """Lengths of the spatial axes of a tensor with a batch."""
    axes = shape.as_list()
    return axes[2:] if data_format == "channels_first" else axes[1:-1]


def average(size: int, pool: int, stride: int, padding: str) -> np.ndarray:
    """Means over windows, of which only what lies inside the axis counts."""
    if padding == "same":
        count = -(-size // stride)
        first = -(max((count - 1) * stride + pool - size, 0) // 2)
    else:
        count, first = (size - pool) // stride + 1, 0
    places = np.arange(size) - first - stride * np.arange(count)[:, None]
    windows = np.float64((places >= 0) & (places < pool))
    return windows / windows.sum(axis=1, keepdims=True)


def pair(amounts: Any, axis: int) -> tuple[int, int]:
    """Amounts before and after an axis, as layers of any rank hold them."""
    if isinstance(amounts, int):
        return amounts, amounts
    own = amounts if isinstance(amounts[0], int) else amounts[axis]
    return own[0], own[-1]
