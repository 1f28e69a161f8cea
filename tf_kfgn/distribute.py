"""Training on several replicas by a loop of one's own, where `fit` cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.optimizers.wrapping import build_once


def train_function(model: keras.Model) -> Callable[[Any], dict[str, tf.Tensor]]:
    """One update of a model on all replicas of its strategy, as `fit` makes it.

    `fit` of Keras fails under `tf.distribute.MultiWorkerMirroredStrategy` with any optimizer.
    There:

    ```python
    update = tf_kfgn.distribute.train_function(model)
    for batch in strategy.experimental_distribute_dataset(dataset):
        logs = update(batch)
    ```

    Args:
        model: A compiled model that was made, enabled and compiled in `strategy.scope()`.

    Returns:
        A `tf.function` from a batch, as a distributed dataset gives it (`x`, `(x, y)` or
        `(x, y, sample_weight)` on each replica), to what the `train_step` of the model returns:
        loss, metrics, `damping` and `step_size`, scalars. The metrics are those since
        `model.reset_metrics()`.

    Raises:
        ValueError: If the model has not been built or compiled.
    """
    if not model.built or not model.compiled:
        raise ValueError(
            f"Model {model.name!r} must be built and compiled, in the scope of its strategy, "
            "before tf_kfgn.distribute.train_function(model)."
        )
    strategy = model.distribute_strategy
    with strategy.scope():
        build_once(model.optimizer, model.trainable_variables)

    def update(batch: Any) -> dict[str, tf.Tensor]:
        logs = strategy.run(model.train_step, args=(batch,))
        return {name: strategy.experimental_local_results(v)[0] for name, v in logs.items()}

    return tf.function(update, autograph=False)
