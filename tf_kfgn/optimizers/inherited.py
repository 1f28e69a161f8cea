"""Checks of the arguments that Keras' optimizers take, most of which Keras does not look at."""

from __future__ import annotations

import numbers
from typing import Any

from tf_kfgn.numerics.checks import POSITIVE, check_count, check_flag, check_number


def check_inherited(
    learning_rate: Any,
    use_ema: Any,
    ema_momentum: Any,
    ema_overwrite_frequency: Any,
    gradient_accumulation_steps: Any,
    loss_scale_factor: Any,
    **at_least_zero: Any,
) -> None:
    """Check the arguments of `keras.optimizers.Optimizer`, which `GaussNewton` describes.

    Args:
        learning_rate: A number is checked; schedules, callables and the wrong types are left to
            Keras.
        use_ema: Must be True or False.
        ema_momentum: From 0 to 1.
        ema_overwrite_frequency: A whole number of updates, or None.
        gradient_accumulation_steps: A whole number of batches, 2 or more, or None.
        loss_scale_factor: Above 0, or None.
        **at_least_zero: Numbers, or None.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if isinstance(learning_rate, numbers.Real) and not isinstance(learning_rate, (bool, int)):
        check_number("learning_rate", learning_rate, 0.0, optional=False)
    check_flag("use_ema", use_ema)
    check_number("ema_momentum", ema_momentum, 0.0, 1.0, optional=False, closed=True)
    check_count(
        "ema_overwrite_frequency",
        ema_overwrite_frequency,
        "a whole number of updates",
        optional=True,
    )
    check_count(
        "gradient_accumulation_steps",
        gradient_accumulation_steps,
        "a whole number of batches",
        low=2,
        kind=numbers.Integral,
        optional=True,
    )
    check_number("loss_scale_factor", loss_scale_factor, POSITIVE)
    for name, value in at_least_zero.items():
        check_number(name, value, 0.0)
