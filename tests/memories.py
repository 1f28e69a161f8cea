"""Memories of optimizers that no training has filled, for tests of what an update does to them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_kfgn.optimizers.memory import Memory, Scalars

_COUNTS = ("averaged_steps", "surprises")


def memory_with(mean_gradient: Any = (), reserve: Any = (), **scalars: float) -> Memory:
    """A memory in float64: zeros but for what is given."""
    values = {
        name: tf.constant(scalars.get(name, 0), tf.int64 if name in _COUNTS else tf.float64)
        for name in Scalars._fields
    }
    assert scalars.keys() <= values.keys()
    return Memory([], [], Scalars(**values), list(mean_gradient), list(reserve))
