"""Moving statistics of batch normalisation, computed anew for the weights as they are."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras.layers import flattened_layers
from tf_kfgn.callbacks.pooled_moments import PooledMoments
from tf_kfgn.recording.kept_state import keeping_state

_LOGGER = logging.getLogger("tf_kfgn")


class BatchStatistics:
    """Moving mean and variance of every batch normalisation of a model, from passes over batches.

    A layer is left alone if it is frozen, or if the model calls it in inference mode.

    Attributes:
        layers: The layers whose statistics are renewed.
    """

    def __init__(self, model: keras.Model) -> None:
        """Find the layers.

        Args:
            model: A built Keras model; it is traced once, with the first `refresh`.
        """
        self._model = model
        self.layers = [
            layer
            for layer in flattened_layers(model)
            if isinstance(layer, keras.layers.BatchNormalization)
            and layer.trainable
            and layer.built
        ]
        self._moments = [PooledMoments(layer.moving_mean.shape[0]) for layer in self.layers]
        has_argument = "training" in model.call_signature_parameters
        arguments = {"training": True} if has_argument else {}

        def run(inputs: Any) -> None:
            model(inputs, **arguments)

        self._run = run if model.run_eagerly else tf.function(run, reduce_retracing=True)

    def refresh(self, batches: Iterable[Any]) -> None:
        """Set the statistics to those of some batches, at the weights as they are.

        Args:
            batches: Inputs of the model.

        Raises:
            ValueError: If there are no batches.
        """
        if not self.layers:
            return
        for moments in self._moments:
            moments.clear()
        scope = self._model.distribute_strategy.scope()
        with scope, keeping_state(self._model), self._watching():
            empty = True
            for inputs in batches:
                self._run(keras.tree.map_structure(tf.convert_to_tensor, inputs))
                empty = False
        if empty:
            raise ValueError(
                "`x` holds no batch, so there is nothing to take the statistics of batch "
                "normalisation from."
            )
        with self._model.distribute_strategy.scope():
            for layer, moments in zip(self.layers, self._moments, strict=True):
                _store(layer, moments.result())

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Let each call of a layer add what it sees to the layer's moments."""
        with contextlib.ExitStack() as undo:
            for layer, moments in zip(self.layers, self._moments, strict=True):
                own = vars(layer).get("call")
                vars(layer)["call"] = _watched(layer, moments)
                undo.callback(_restore_call, layer, own)
            yield


def _watched(layer: Any, moments: PooledMoments) -> Callable[..., Any]:
    call = layer.call
    signature = inspect.signature(call)

    def watched(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        if given.get("training", "training" not in signature.parameters):
            moments.add(next(iter(given.values())), given.get("mask"), layer.axis)
        return call(*args, **kwargs)

    return watched


def _restore_call(layer: Any, own: Any) -> None:
    if own is None:
        del vars(layer)["call"]
    else:
        vars(layer)["call"] = own


def _store(layer: Any, result: tuple[np.ndarray, np.ndarray] | None) -> None:
    """Give a layer its statistics, unless there are none, or none that are finite."""
    if result is None:
        return
    mean, variance = result
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        _LOGGER.warning(
            "The inputs of the batch normalisation %r are not finite; it keeps its statistics.",
            layer.path,
        )
        return
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    if hasattr(layer, "moving_stddev"):  # of renorm, from which it derives the variance
        layer.moving_stddev.assign(np.sqrt(variance + layer.epsilon))
