"""Which Keras losses cannot be negative, so that no step can lower them by more than themselves."""

from __future__ import annotations

from typing import Any

import keras

from tf_kfgn._keras.losses import loss_function

NONNEGATIVE = (
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
    keras.losses.huber,
    keras.losses.log_cosh,
    keras.losses.mean_squared_error,
    keras.losses.mean_squared_logarithmic_error,
    keras.losses.sparse_categorical_crossentropy,
    keras.losses.squared_hinge,
)


def is_nonnegative(loss: Any) -> bool:
    """Whether a Keras loss object computes one of `NONNEGATIVE`."""
    function, _ = loss_function(loss)
    return function in NONNEGATIVE
