"""Kronecker factors of every layer of a model."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.analysis.examples import Examples
from tf_kfgn.analysis.inspection import tape_of
from tf_kfgn.factors import ESTIMATORS, KroneckerFactors
from tf_kfgn.factors.estimator import FactorEstimator
from tf_kfgn.factors.kfra import SPATIAL
from tf_kfgn.factors.sharing import DEFAULT, Approximation
from tf_kfgn.numerics.checks import check_choice, check_count, check_seed


def kronecker_factors(
    model: keras.Model,
    x: Any,
    loss: Any,
    method: str,
    *,
    y: Any = None,
    num_samples: int = 1,
    approximation: Approximation = DEFAULT,
    seed: int | None = None,
    sample_weight: Any = None,
    spatial: str = "auto",
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
        approximation: How shared weights enter, `"correlated"`, `"expand"` or `"reduce"`, or a
            dictionary from names of layers to these. Peers' libraries expand.
        seed: Seed of the samples, or None for another one with each call.
        sample_weight: Weights of the examples as `fit` takes them, or None. They scale the
            curvature as they scale the loss.
        spatial: What KFRA carries of tensors with positions, `"full"`, `"uncorrelated"` or
            `"auto"`, see `KFRA`; only KFRA looks at it.

    Returns:
        `{layer.name: KroneckerFactors(A, G)}`: A of shape `(in [+ 1], in [+ 1])`, G of shape
        `(out, out)`. `np.kron(A, G)` approximates the block of the mean loss that Keras reports,
        for the row-major joint matrix of kernel and bias.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, the loss has no known curvature, `method`,
            `approximation`, `num_samples` or `spatial` is not one of the above, `sample_weight`
            does not match the examples, or KFRA finds a layer without a rule.
    """
    estimator = estimator_of(method, approximation, num_samples, spatial)
    if seed is None:
        seed = random.randint(0, 2**31 - 1)
    check_seed(seed)
    with tape_of(model, Examples.of(x, y, sample_weight), loss) as tape:
        factors = estimator(tape, tf.constant([seed, 0], tf.int64))
    return {matrix.name: pair for matrix, pair in factors.items()}


def estimator_of(
    method: str,
    approximation: Approximation = DEFAULT,
    num_samples: int = 1,
    spatial: str = "auto",
) -> FactorEstimator:
    """An estimator by its name, with those of the arguments that it takes.

    Args:
        method: `"kfra"`, `"kflr"` or `"kfac"`, or one that was registered.
        approximation: How shared weights enter.
        num_samples: Sampled cotangents for each example.
        spatial: What KFRA carries of tensors with positions.

    Raises:
        ValueError: If an argument is not one of these.
    """
    check_count("num_samples", num_samples)
    check_choice("method", method, sorted(ESTIMATORS))
    check_choice("spatial", spatial, SPATIAL)
    given: dict[str, Any] = {
        "approximation": approximation,
        "num_samples": num_samples,
        "spatial": spatial,
    }
    taken = {field.name for field in dataclasses.fields(ESTIMATORS[method])}
    return ESTIMATORS[method](**{k: v for k, v in given.items() if k in taken})
