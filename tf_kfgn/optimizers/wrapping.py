"""Finding a Gauss-Newton optimizer inside the optimizers that Keras wraps around others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from tf_kfgn.optimizers.gauss_newton import GaussNewton


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


def chooses(optimizer: Any) -> bool:
    """Whether an optimizer gives each variable to one of several others.

    The others move their weights one after the other. Which they are may only be known once the
    optimizer is built.
    """
    inner = inner_optimizers(optimizer)
    return hasattr(optimizer, "optimizers") or any(chooses(other) for other in inner)
