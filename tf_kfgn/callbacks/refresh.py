"""RefreshBatchNormalization: moving statistics that belong to the weights when they are used."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import keras

from tf_kfgn.callbacks.batch_normalization import BatchStatistics
from tf_kfgn.callbacks.batches_of_inputs import batches_of_inputs

_LOGGER = logging.getLogger("tf_kfgn")


class RefreshBatchNormalization(keras.callbacks.Callback):
    """Computes the moving statistics of batch normalisation anew before they are used.

    ```python
    refresh = tf_kfgn.callbacks.RefreshBatchNormalization(x, batch_size=1000, batches=5)
    model.fit(x, y, batch_size=1000, validation_data=(x, y), callbacks=[refresh])
    ```

    In validation, and in the trained model, `BatchNormalization` normalises with averages over the
    batches of training: with the default momentum, 0.99, over the last few hundred updates. A
    method that needs only tens of updates moves the weights far within that time, and the model is
    then judged with statistics of weights that it no longer has. This callback replaces them by
    those of the current weights: before each evaluation in `fit`, and at the end of `fit`.

    The model runs over the data as in training, with the statistics of each batch, and dropout
    active: what the moving averages would settle at if the weights stood still. Mean and variance
    of a layer are those of all its inputs in these passes together, exactly and however they are
    split into batches (the variance is the biased one, as in training; `synchronized` makes no
    difference, and each batch goes through one replica). Masked places do not count.

    The refreshed statistics stay: a file that `ModelCheckpoint` writes at the end of an epoch holds
    those with which the epoch was validated. Nothing else stays. Seeds of dropout, metrics, and
    what renorm corrects with are put back, so that training is bitwise the same with and without
    this callback. Layers that are frozen, or that the model calls with `training=False`, are left
    alone. A model without batch normalisation makes the callback do nothing, with a warning.

    The optimizer may be any. With `SwapEMAWeights`, let that callback come first: the statistics
    are then those of the averaged weights. With `EarlyStopping(restore_best_weights=True)`, which
    restores statistics too, either order gives the same up to rounding. Without validation the
    statistics are refreshed only at the end of `fit`; files written earlier hold the old ones.

    Args:
        x: Inputs to run over, part of those that the model is trained on: arrays, a list or
            dictionary of arrays for several inputs, a `tf.data.Dataset` or a `PyDataset`. Targets
            in a dataset are ignored.
        batch_size: Examples in a batch of arrays; best that of training, since statistics of later
            layers depend on it a little. Defaults to 128. Must be None for a dataset.
        batches: Number of batches in each refresh; for arrays a random selection, made once.
            Defaults to `None`: all.

    Raises:
        ValueError: If an argument is out of its range, or does not fit `x`.
    """

    def __init__(self, x: Any, batch_size: int | None = None, batches: int | None = None) -> None:
        """Take the arguments, which the class describes."""
        super().__init__()
        self._batches = batches_of_inputs(x, batch_size, batches)
        self._fitting = False
        self._statistics: BatchStatistics | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Forget the layers of an earlier training, which may be frozen now."""
        self._fitting, self._statistics = True, None

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Refresh, for the validation that follows."""
        self._refresh()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Refresh, for the trained model."""
        self._refresh()
        self._fitting, self._statistics = False, None

    def _refresh(self) -> None:
        if self._statistics is None or not self._fitting:
            self._statistics = BatchStatistics(self.model)
            if not self._statistics.layers:
                _LOGGER.warning(
                    "RefreshBatchNormalization has nothing to do: %r has no BatchNormalization "
                    "that is trained.",
                    self.model.name,
                )
        self._statistics.refresh(self._batches())


def refresh_batch_normalization(
    model: keras.Model, x: Any, batch_size: int | None = None, batches: int | None = None
) -> None:
    """Compute the moving statistics of batch normalisation anew, in a loop of your own.

    What `RefreshBatchNormalization` does before each evaluation.

    Args:
        model: A built Keras model.
        x: As for `RefreshBatchNormalization`.
        batch_size: As for `RefreshBatchNormalization`.
        batches: As for `RefreshBatchNormalization`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, or another argument does not fit.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model, received {model!r} of type {type(model).__name__}."
        )
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} has not been built, so there are no statistics yet. Call it on "
            "a batch first."
        )
    BatchStatistics(model).refresh(batches_of_inputs(x, batch_size, batches)())
