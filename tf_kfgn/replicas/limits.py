"""What Keras cannot do on several replicas, said before it fails in a graph."""

from __future__ import annotations

import logging
from typing import Any

from tf_kfgn.numerics.batch_sizes import batch_sizes_of_fit

_LOGGER = logging.getLogger("tf_kfgn")


def check_fit(
    replicas: int,
    x: Any,
    batch_size: int | None,
    steps_per_execution: int,
    gradient_accumulation_steps: int | None,
) -> None:
    """Refuse what `fit` of Keras cannot do on several replicas, with any optimizer.

    Args:
        replicas: How many share a batch.
        x: What `fit` is given: arrays and data sets tell their batches; others are not looked at.
        batch_size: As `fit` takes it, or None.
        steps_per_execution: As `compile` takes it.
        gradient_accumulation_steps: As an optimizer takes it, or None.

    Raises:
        ValueError: If there are several replicas, and Keras would fail.
    """
    if replicas == 1:
        return
    if steps_per_execution > 1:
        raise ValueError(
            f"Keras cannot run steps_per_execution={steps_per_execution} on {replicas} replicas, "
            "with any optimizer. Pass compile(..., steps_per_execution=1)."
        )
    if gradient_accumulation_steps:
        raise ValueError(
            f"Keras cannot accumulate gradients over {gradient_accumulation_steps} batches on "
            f"{replicas} replicas, with any optimizer. Pass gradient_accumulation_steps=None; the "
            "replicas share a larger batch instead."
        )
    batch, last = batch_sizes_of_fit(x, batch_size)
    if batch is not None and batch % replicas:
        raise ValueError(
            f"Keras cannot share a batch of {batch} examples among {replicas} replicas. Pass a "
            "batch_size that is a multiple of the number of replicas."
        )
    if last is not None and last % replicas:
        _LOGGER.warning(
            "The last batch of an epoch has %d examples, which %d replicas cannot share evenly: "
            "Keras counts the mean of each replica alike, so its update is not that of one device.",
            last,
            replicas,
        )
