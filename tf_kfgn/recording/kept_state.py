"""Passes in training mode that leave no trace: the state of the layers comes back afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf


@contextlib.contextmanager
def keeping_state(model: keras.Model) -> Iterator[None]:
    """Give every variable of a model that is not trained its value back, whatever happens inside.

    Moving statistics, the random state of dropout, metrics: what a call may change besides its
    outputs.

    Args:
        model: A built Keras model.
    """
    variables = [*model.non_trainable_variables, *model.metrics_variables]
    values = [tf.identity(tf.convert_to_tensor(variable)) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
