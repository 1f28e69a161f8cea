"""kfac-jax, in an environment with jax: `python -m _peers.on_jax FOLDER`."""

from __future__ import annotations

import importlib.metadata
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import kfac_jax
import numpy as np

from _peers import nets
from _peers.serving import Graph, serve

# Of examples/autoencoder_mnist/pipeline.py in its repository, for the same net and objective.
SETTINGS = {
    "inverse_update_period": 5,
    "damping_adaptation_interval": 5,
    "num_burnin_steps": 5,
    "curvature_ema": 0.95,
    "use_adaptive_damping": True,
    "use_adaptive_learning_rate": True,
    "use_adaptive_momentum": True,
    "damping_adaptation_decay": 0.95,
    "initial_damping": 150.0,
    "min_damping": 1e-5,
    "max_damping": 1000.0,
}
ACTIVATIONS = {"tanh": jnp.tanh, "": lambda x: x}


class OnJax:
    """What kfac-jax can compute.

    Args:
        folder: Has the file of each net.
        smoke: Whether the nets are tiny.
    """

    def __init__(self, folder: pathlib.Path, smoke: bool) -> None:
        """See the class."""
        self._path = nets.path_of(folder, nets.TRAINED)
        self._net = nets.nets(smoke=smoke)[nets.TRAINED]

    def versions(self) -> dict[str, str]:
        """Of the packages."""
        return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "kfac-jax")}

    def graphs(self, name: str) -> Mapping[str, Graph]:
        """The gradient of the trained autoencoder."""
        self._require(name)
        gradient, (weights, images) = jax.jit(jax.grad(self._loss)), self._start()
        return {"gradient": lambda: jax.block_until_ready(gradient(weights, images))}

    def check(self, name: str) -> tuple[float, float]:
        """The loss of a net and the norm of its gradient."""
        self._require(name)
        loss, gradients = jax.value_and_grad(self._loss)(*self._start())
        leaves = jax.tree_util.tree_leaves(gradients)
        return float(loss), float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves)))

    def trained(self, method: str) -> TrainedByKfacJax:
        """The autoencoder with the settings of their example."""
        del method
        return TrainedByKfacJax(self._loss, *self._start())

    def _require(self, name: str) -> None:
        if name != nets.TRAINED:
            raise NotImplementedError(f"only the {nets.TRAINED} is trained by kfac-jax")

    def _start(self) -> tuple[Any, jax.Array]:
        values = [jnp.asarray(value) for value in nets.read_weights(self._path)]
        weights = list(zip(values[::2], values[1::2], strict=True))
        return weights, jnp.asarray(nets.read_batch(self._path)[0])

    def _loss(self, weights: Any, images: jax.Array) -> jax.Array:
        x = images
        for layer, (kernel, bias) in zip(self._net.layers, weights, strict=True):
            x = jnp.dot(x, kernel)
            x = ACTIVATIONS[layer.activation](x + jnp.broadcast_to(bias, x.shape))
        kfac_jax.register_sigmoid_cross_entropy_loss(x, targets=images)
        losses = jnp.maximum(x, 0) - x * images + jnp.log1p(jnp.exp(-jnp.abs(x)))
        squares = sum(jnp.sum(w**2) for w in jax.tree_util.tree_leaves(weights))
        return jnp.mean(jnp.sum(losses, axis=1)) + nets.L2_PENALTY * squares


class TrainedByKfacJax:
    """Weights that are trained.

    Args:
        loss: Of weights and images.
        weights: At the start.
        images: A batch.
    """

    def __init__(self, loss: Any, weights: Any, images: jax.Array) -> None:
        """Make the optimizer."""
        self._start, self._images = weights, images
        self._optimizer = kfac_jax.Optimizer(
            value_and_grad_func=jax.value_and_grad(loss),
            l2_reg=2 * nets.L2_PENALTY,  # theirs is halved
            **SETTINGS,
        )
        self._loss = jax.jit(loss)
        self.reset()

    def update(self, batches: Iterator[np.ndarray]) -> None:
        """Make an update; the first one takes batches for its burn-in too."""
        self._key, key = jax.random.split(self._key)
        self._weights, self._state, stats = self._optimizer.step(
            self._weights,
            self._state,
            key,
            data_iterator=map(jnp.asarray, batches),
            global_step_int=self._updates,
        )
        self._updates += 1
        jax.block_until_ready((self._weights, stats))

    def reset(self) -> None:
        """Weights and optimizer as they were at first; a step gives its arguments away."""
        self._updates, self._key = 0, jax.random.PRNGKey(0)
        self._weights = jax.tree_util.tree_map(jnp.copy, self._start)
        self._state = self._optimizer.init(self._weights, self._key, self._images)

    def objective(self, images: np.ndarray) -> float:
        """What is minimised."""
        return float(self._loss(self._weights, jnp.asarray(images)))

    def weights(self) -> list[np.ndarray]:
        """Kernels and biases in turn."""
        return [np.asarray(value) for pair in self._weights for value in pair]


if __name__ == "__main__":
    serve(OnJax)
