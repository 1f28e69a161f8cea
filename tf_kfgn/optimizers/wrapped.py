"""Finding a Gauss-Newton optimizer inside the optimizers that Keras wraps around others."""

from __future__ import annotations

from typing import Any

import keras

from tf_kfgn.optimizers.gauss_newton import GaussNewton


def gauss_newton_of(optimizer: Any) -> GaussNewton | None:
    """The first Gauss-Newton optimizer that an optimizer is or holds, or None.

    Args:
        optimizer: Any Keras optimizer: one of ours, a `LossScaleOptimizer` around it
            (`mixed_float16`), or a `MultiOptimizer` that gives it some of the variables.
    """
    if isinstance(optimizer, GaussNewton):
        return optimizer
    for inner in inner_optimizers(optimizer):
        found = gauss_newton_of(inner)
        if found is not None:
            return found
    return None


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that an optimizer hands variables on to; none for an ordinary one."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return [optimizer.inner_optimizer]
    return list(getattr(optimizer, "optimizers", ()))  # a MultiOptimizer, of newer Keras only


def is_one_of_several(optimizer: Any) -> bool:
    """Whether other optimizers move weights in the same update."""
    inner = inner_optimizers(optimizer)
    return len(inner) > 1 or any(is_one_of_several(other) for other in inner)
