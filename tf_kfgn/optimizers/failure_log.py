"""Warnings in the log of updates that could not be made."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_kfgn.optimizers.wrapping import gauss_newton_of

_LOGGER = logging.getLogger("tf_kfgn")

_MANY = 3  # updates
_DIVERGED = 1e3  # times the first objective
_TINY = 1e-30


@contextlib.contextmanager
def logging_failures(optimizer: Any) -> Iterator[None]:
    """Log, at the end of this context, what went wrong in the updates inside."""
    before = _counts(optimizer)
    try:
        yield
    finally:
        updates, rejected, nonfinite, failed = (
            new - old for new, old in zip(_counts(optimizer), before, strict=True)
        )
        log_failures("This call of fit", updates, nonfinite, failed, optimizer)
        if updates >= _MANY and rejected == updates > nonfinite:
            _LOGGER.warning(
                "This call of fit: all of %d updates left the weights as they were. %s",
                updates,
                likely_cause(optimizer),
            )


def likely_cause(optimizer: Any) -> str:
    """What probably went wrong, by what the optimizer has seen since it was built.

    Args:
        optimizer: The optimizer, of any kind.

    Returns:
        A sentence or two; empty for an optimizer that is not built, or not ours.
    """
    found = gauss_newton_of(optimizer)
    if found is None or not found.built:
        return ""
    scalars = found.memory.scalars
    initial, usual, curvature, damping = (
        float(tf.convert_to_tensor(value))
        for value in (
            scalars.initial_objective,
            scalars.usual_objective,
            scalars.usual_curvature,
            scalars.initial_damping,
        )
    )
    if not usual:
        return (
            "No batch had a finite loss: look for NaN or infinity in the data, the weights and the "
            "loss itself."
        )
    if usual > _DIVERGED * max(abs(initial), _TINY):
        return (
            f"Training diverged: the loss of a batch grew from {initial:.3g} to about {usual:.3g}. "
            "Pass `objective` to apply() if it is called by hand, a smaller `learning_rate` or a "
            "larger `damping`, and look for large values in the data."
        )
    if not damping or not curvature:
        return (
            "The loss had no curvature at the outputs of the model: they fit the targets exactly, "
            "are saturated, or the loss is piecewise linear there."
        )
    return (
        f"The other batches had finite losses of about {usual:.3g}: look for NaN, infinity or very "
        "large values in single batches of the data."
    )


def log_failures(when: str, updates: int, nonfinite: int, failed: int, optimizer: Any) -> None:
    """Log a warning of updates that were not finite, and of inversions that failed.

    Args:
        when: What the numbers belong to.
        updates: Number of updates.
        nonfinite: How many of them were not finite.
        failed: How many inversions of blocks failed in them.
        optimizer: Whose updates these were.
    """
    if nonfinite > 0:
        _LOGGER.warning(
            "%s: %d of %d updates were not finite and left the weights as they were. %s",
            when,
            nonfinite,
            updates,
            likely_cause(optimizer),
        )
    if failed > 0:
        _LOGGER.warning(
            "%s: %d inversions of blocks failed in %d updates. Each of these blocks kept its last "
            "inverse, and the damping was raised. A larger `min_damping` prevents this.",
            when,
            failed,
            updates,
        )


def _counts(optimizer: Any) -> tuple[int, int, int, int]:
    found = gauss_newton_of(optimizer)
    if found is None or not found.built:
        return 0, 0, 0, 0
    counters = (
        found.iterations,
        found.rejected_steps,
        found.nonfinite_steps,
        found.failed_inversions,
    )
    return tuple(int(tf.convert_to_tensor(counter)) for counter in counters)  # type: ignore[return-value]
