"""tf_kfgn, in the environment of the project: `python -m _peers.ours FOLDER`."""

from __future__ import annotations

import importlib.metadata
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tf_kfgn
from _peers import nets
from _peers.serving import Graph, serve
from tf_kfgn.factors import FactorEstimator, KFACEstimator, KFLREstimator, KFRAEstimator

ESTIMATORS = {"KFAC": KFACEstimator(), "KFLR": KFLREstimator(), "KFRA": KFRAEstimator()}
OPTIMIZERS = {"KFRA": tf_kfgn.KFRA, "KFAC": lambda: tf_kfgn.KFAC(seed=0)}
LOSSES = {
    "classes": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "squares": keras.losses.MeanSquaredError,
    "pixels": lambda: keras.losses.BinaryCrossentropy(from_logits=True),  # mean over pixels
}


class Ours:
    """What tf_kfgn can compute.

    Args:
        folder: Has the file of each net.
        smoke: Whether the nets are tiny.
    """

    def __init__(self, folder: pathlib.Path, smoke: bool) -> None:
        """See the class."""
        self._folder, self._nets = folder, nets.nets(smoke=smoke)

    def versions(self) -> dict[str, str]:
        """Of the packages."""
        return {name: importlib.metadata.version(name) for name in ("keras", "tensorflow")} | {
            "tf_kfgn": tf_kfgn.__version__
        }

    def graphs(self, name: str) -> Mapping[str, Graph]:
        """The gradient of a stock model, and with a recording one gradient and factors."""
        net = self._nets[name]
        plain = self._gradient(name)
        found: dict[str, Graph] = {"gradient": lambda: wait(plain())}
        for method in net.methods:
            found[f"tf_kfgn {method}"] = self._factors(name, ESTIMATORS[method])
        return found

    def check(self, name: str) -> tuple[float, float]:
        """The loss of a net and the norm of its gradient."""
        loss, gradients = self._gradient(name)()
        return float(loss), float(tf.linalg.global_norm(gradients))

    def trained(self, method: str) -> TrainedByKeras:
        """The autoencoder, compiled with the defaults of an optimizer."""
        weights = nets.read_weights(nets.path_of(self._folder, nets.TRAINED))
        return TrainedByKeras(self._nets[nets.TRAINED], weights, OPTIMIZERS[method]())

    def _model(self, name: str) -> tuple[keras.Model, Any, tf.Tensor, tf.Tensor]:
        net, path = self._nets[name], nets.path_of(self._folder, name)
        model = build(net)
        model.set_weights(nets.read_weights(path))
        x, y = (tf.constant(part) for part in nets.read_batch(path))
        return model, LOSSES[net.loss](), x, y

    def _gradient(self, name: str) -> Graph:
        net = self._nets[name]
        model, loss_fn, x, y = self._model(name)
        scale = net.outputs if net.loss == "pixels" else 1

        @tf.function(autograph=False)
        def gradient() -> tuple[tf.Tensor, list[tf.Tensor]]:
            with tf.GradientTape() as tape:
                loss = scale * loss_fn(y, model(x, training=True)) + sum(model.losses)
            return loss, tape.gradient(loss, [v.value for v in model.trainable_variables])

        return gradient

    def _factors(self, name: str, estimator: FactorEstimator) -> Graph:
        model, loss_fn, x, y = self._model(name)
        tf_kfgn.enable_curvature(model)

        @tf.function(autograph=False)
        def factors(seed: tf.Tensor) -> Any:
            with tf_kfgn.CurvatureTape() as tape:
                outputs = model(x, training=True)
                loss = loss_fn(y, outputs)
                tape.watch_loss(loss_fn, y, outputs)
            gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
            found = estimator(tape, seed)
            return gradients, [tuple(pair) for pair in found.values()]

        seed = tf.constant([0, 0], tf.int64)
        return lambda: wait(factors(seed))


class TrainedByKeras:
    """A Keras model that is trained.

    Args:
        net: The autoencoder.
        weights: At the start.
        optimizer: Of ours.
    """

    def __init__(
        self, net: nets.Net, weights: list[np.ndarray], optimizer: keras.Optimizer
    ) -> None:
        """Build and compile."""
        model = self._model = tf_kfgn.enable_curvature(build(net))
        self._pixels = float(net.outputs)
        model.set_weights(weights)
        model.compile(optimizer, LOSSES[net.loss](), loss_weights=[self._pixels], jit_compile=False)
        optimizer.build(model.trainable_variables)
        self._variables = [*model.variables, *optimizer.variables]
        self._start = [keras.ops.convert_to_numpy(variable) for variable in self._variables]
        self._step = tf.function(lambda x: model.train_step((x, x)), autograph=False)
        self._measure = objective_of(model)

    def update(self, batches: Iterator[np.ndarray]) -> None:
        """Make an update, as `fit` does."""
        wait(self._step(tf.constant(next(batches))))

    def reset(self) -> None:
        """Weights and optimizer as they were at first."""
        for variable, value in zip(self._variables, self._start, strict=True):
            variable.assign(value)

    def objective(self, images: np.ndarray) -> float:
        """What `fit` minimises."""
        return self._measure(images)

    def weights(self) -> list[np.ndarray]:
        """Kernels and biases in turn."""
        return self._model.get_weights()


def objective_of(model: keras.Model) -> Callable[[np.ndarray], float]:
    """What is minimised, as a function of images, at the weights as they are then."""
    pixels, loss_fn = float(model.output_shape[-1]), LOSSES["pixels"]()

    @tf.function(autograph=False)
    def objective(images: tf.Tensor) -> tf.Tensor:
        loss = loss_fn(images, model(images, training=False))
        return pixels * loss + sum(model.losses)

    return lambda images: float(objective(tf.constant(images)))


def build(net: nets.Net) -> keras.Model:
    """A stock model."""
    l2 = keras.regularizers.L2(nets.L2_PENALTY) if net.loss == "pixels" else None

    def layer(of: nets.Layer) -> keras.Layer:
        activation = of.activation or None
        if of.kind == "dense":
            return keras.layers.Dense(
                of.outputs, activation, kernel_regularizer=l2, bias_regularizer=l2
            )
        if of.kind == "convolution":
            return keras.layers.Conv2D(of.outputs, 3, padding="same", activation=activation)
        return keras.layers.MaxPooling2D() if of.kind == "pooling" else keras.layers.Flatten()

    return keras.Sequential([keras.Input(net.inputs), *map(layer, net.layers)])


def wait(results: Any) -> None:
    """Return when all of it is computed."""
    for tensor in tf.nest.flatten(results):
        tensor.numpy()


if __name__ == "__main__":
    serve(Ours)
