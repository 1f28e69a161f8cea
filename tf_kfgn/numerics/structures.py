"""Nested structures of tensors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def first_tensor(structure: Any) -> Any:
    """The first leaf that is there: optional inputs of a model may be None."""
    return next(leaf for leaf in tf.nest.flatten(structure) if leaf is not None)


def is_array(leaf: Any) -> bool:
    """Whether something is a dense array or tensor that has rows."""
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return False
    return tf.TensorShape(getattr(leaf, "shape", ())).rank not in (None, 0)
