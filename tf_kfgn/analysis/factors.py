"""Kronecker factors of every layer of a model."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.analysis.inspection import recorded_pass
from tf_kfgn.factors import (
    FactorEstimator,
    KFACEstimator,
    KFLREstimator,
    KFRAEstimator,
    KroneckerFactors,
)
from tf_kfgn.factors.sharing import Approximation

_ESTIMATORS: dict[str, Callable[[Approximation, int], FactorEstimator]] = {
    "kfra": lambda approximation, _: KFRAEstimator(approximation),
    "kflr": lambda approximation, _: KFLREstimator(approximation),
    "kfac": KFACEstimator,
}


def kronecker_factors(
    model: keras.Model,
    x: Any,
    loss: Any,
    method: str,
    *,
    y: Any = None,
    num_samples: int = 1,
    approximation: Approximation = "expand",
    seed: int | None = None,
) -> dict[str, KroneckerFactors]:
    """Kronecker factors of the Gauss-Newton block of every layer with trainable weights.

    The model runs in inference mode and is unchanged afterwards.

    Args:
        model: A built Keras model.
        x: Inputs, one batch.
        loss: What `compile(loss=...)` takes.
        method: `"kfra"`, `"kflr"` or `"kfac"`.
        y: Targets. The curvature of the known losses does not depend on them.
        num_samples: Sampled cotangents for each example; only KFAC looks at it.
        approximation: How shared weights enter, `"expand"` or `"reduce"`, or a dictionary from
            names of layers to these.
        seed: Seed of the samples, or None for another one with each call.

    Returns:
        `{layer.name: KroneckerFactors(A, G)}`: A of shape `(in [+ 1], in [+ 1])`, G of shape
        `(out, out)`. `np.kron(A, G)` approximates the block of the mean loss that Keras reports,
        for the row-major joint matrix of kernel and bias.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it has not been built, the loss has no known curvature, `method`,
            `approximation` or `num_samples` is not one of the above, or KFRA finds a layer
            without a rule.
    """
    if method not in _ESTIMATORS:
        raise ValueError(f"`method` must be one of {sorted(_ESTIMATORS)}, received {method!r}.")
    estimator = _ESTIMATORS[method](approximation, num_samples)
    if seed is None:
        seed = random.randint(0, 2**31 - 1)
    with recorded_pass(model, x, loss, y) as tape:
        factors = estimator(tape, tf.constant([seed, 0], tf.int64))
    return {matrix.name: pair for matrix, pair in factors.items()}
