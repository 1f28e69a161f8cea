"""Optimizers that Keras wraps around others: finding ours inside, and updates through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.blocks.layout import path_of
from tf_kfgn.optimizers.active_pass import recorded_pass
from tf_kfgn.optimizers.gauss_newton import GaussNewton
from tf_kfgn.recording.tape import CurvatureTape


def make_update(
    optimizer: Any,
    gradients: list[Any],
    variables: list[Any],
    tape: CurvatureTape,
    objective: Callable[[], tf.Tensor] | None = None,
    loss: tf.Tensor | None = None,
    curvature_tape: CurvatureTape | None = None,
) -> None:
    """Make one update with any optimizer: one of ours, or any that holds some of ours.

    Args:
        optimizer: The optimizer.
        gradients: The objective's gradient for each variable, scaled if the optimizer scales the
            loss.
        variables: The variables.
        tape: The recorded pass that the gradients come from.
        objective: As for `GaussNewton.apply`.
        loss: As for `GaussNewton.apply`.
        curvature_tape: As for `recorded_pass`.

    Raises:
        ValueError: If an optimizer that hands its variables on gives none to ours.
    """
    several = delegates_to_several(optimizer)
    if several:  # another one may move weights before ours does
        build_once(optimizer, variables)
        ours = list(gauss_newtons_in(optimizer))
        if not any(one.built for one in ours):
            raise ValueError(
                f"The {type(optimizer).__name__} gives {[one.name for one in ours]} none of these "
                f"variables: {[path_of(variable) for variable in variables[:10]]}. Its patterns "
                "must match whole paths: write '.*dense/.*' rather than 'dense/.*'."
            )
        for one in ours:
            if one.built:  # it was given some variables
                one.refresh_curvature(tape)
    loss = None if several else loss
    with recorded_pass(tape, objective, loss, several, curvature_tape=curvature_tape):
        optimizer.apply(gradients, variables)


def gauss_newton_of(optimizer: Any) -> GaussNewton | None:
    """The first Gauss-Newton optimizer that an optimizer is or holds, or None.

    Args:
        optimizer: Any Keras optimizer: one of ours, a `LossScaleOptimizer` around it
            (`mixed_float16`), or a `MultiOptimizer` that gives it some of the variables.
    """
    return next(gauss_newtons_in(optimizer), None)


def gauss_newtons_in(optimizer: Any) -> Iterator[GaussNewton]:
    """Every Gauss-Newton optimizer that an optimizer is or holds."""
    if isinstance(optimizer, GaussNewton):
        yield optimizer
    for inner in inner_optimizers(optimizer):
        yield from gauss_newtons_in(inner)


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that an optimizer hands variables on to; none for an ordinary one."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return [optimizer.inner_optimizer]
    return list(getattr(optimizer, "optimizers", ()))  # a MultiOptimizer, of newer Keras only


def build_once(optimizer: Any, variables: list[Any]) -> None:
    """Build an optimizer, unless it is built: a `LossScaleOptimizer` would add its state again."""
    if not optimizer.built:
        optimizer.build(variables)


def delegates_to_several(optimizer: Any) -> bool:
    """Whether an optimizer hands its variables on to several others, each to one.

    The others move their weights one after the other. Which they are may only be known once the
    optimizer is built.
    """
    inner = inner_optimizers(optimizer)
    return hasattr(optimizer, "optimizers") or any(delegates_to_several(other) for other in inner)
