"""Warnings in the log of updates that could not be made."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_kfgn.optimizers.wrapping import gauss_newton_of

_LOGGER = logging.getLogger("tf_kfgn")


@contextlib.contextmanager
def logging_failures(optimizer: Any) -> Iterator[None]:
    """Log, at the end of this context, what went wrong in the updates inside."""
    before = _counts(optimizer)
    try:
        yield
    finally:
        updates, nonfinite, failed = (
            new - old for new, old in zip(_counts(optimizer), before, strict=True)
        )
        log_failures("This call of fit", updates, nonfinite, failed)


def log_failures(when: str, updates: int, nonfinite: int, failed: int) -> None:
    """Log a warning of updates that were not finite, and of inversions that failed.

    Args:
        when: What the numbers belong to.
        updates: Number of updates.
        nonfinite: How many of them were not finite.
        failed: How many inversions of blocks failed in them.
    """
    if nonfinite > 0:
        _LOGGER.warning(
            "%s: %d of %d updates were not finite and left the weights as they were. Look for NaN "
            "in the data, and for overflow in the loss.",
            when,
            nonfinite,
            updates,
        )
    if failed > 0:
        _LOGGER.warning(
            "%s: %d inversions of blocks failed in %d updates. Each of these blocks kept its last "
            "inverse, and the damping was doubled. A larger `min_damping` prevents this.",
            when,
            failed,
            updates,
        )


def _counts(optimizer: Any) -> tuple[int, int, int]:
    found = gauss_newton_of(optimizer)
    if found is None or not found.built:
        return 0, 0, 0
    counters = (found.iterations, found.nonfinite_steps, found.failed_inversions)
    return tuple(int(tf.convert_to_tensor(counter)) for counter in counters)  # type: ignore[return-value]
