"""How many examples the batches of `fit` have, before it makes them."""

from __future__ import annotations

import numbers
from typing import Any

import tensorflow as tf

from tf_kfgn.numerics.structures import is_array

# What `fit` takes where no `batch_size` is given.
_DEFAULT = 32


def batch_sizes_of_fit(x: Any, batch_size: Any = None) -> tuple[int | None, int | None]:
    """The examples of a batch, and of the last one of an epoch; None for one that is not known.

    Args:
        x: As `fit` takes it: arrays and data sets of fixed batches tell, others do not.
        batch_size: As `fit` takes it, or None.
    """
    if isinstance(x, tf.data.Dataset):
        shape = tf.nest.flatten(x.element_spec)[0].shape
        return (shape[0] if shape.rank else None), None
    leaves = [leaf for leaf in tf.nest.flatten(x) if leaf is not None]
    size = _DEFAULT if batch_size is None else batch_size
    known = isinstance(size, numbers.Integral) and int(size) > 0  # else `fit` will complain
    if not leaves or not known or not all(is_array(leaf) for leaf in leaves):
        return None, None
    examples = int(leaves[0].shape[0])
    batch = min(int(size), examples)
    return batch, examples % batch or batch if batch else None
