"""BackPACK and curvlinops, in an environment with torch: `python -m _peers.on_torch FOLDER`."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from backpack import backpack, extend, extensions
from curvlinops import KFACLinearOperator

from _peers import nets
from _peers.serving import Graph, serve

EXTENSIONS = {"KFAC": extensions.KFAC, "KFLR": extensions.KFLR, "KFRA": extensions.KFRA}
FISHER_TYPES = {"KFAC": "mc", "KFLR": "type-2"}
ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}


class OnTorch:
    """What BackPACK and curvlinops can compute; they need torch's eager mode.

    Args:
        folder: Has the file of each net.
        smoke: Whether the nets are tiny.
    """

    def __init__(self, folder: pathlib.Path, smoke: bool) -> None:
        """See the class."""
        self._folder, self._nets = folder, nets.nets(smoke=smoke)
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # as the others do
        warnings.filterwarnings("ignore", message="Full backward hook")

    def versions(self) -> dict[str, str]:
        """Of the packages."""
        named = ("torch", "backpack-for-pytorch", "curvlinops-for-pytorch")
        return {name.split("-")[0]: importlib.metadata.version(name) for name in named}

    def graphs(self, name: str) -> Mapping[str, Graph]:
        """The gradient, and gradient and factors by each package; BackPACK has them in one pass."""
        net = self._nets[name]
        found: dict[str, Graph] = {"gradient": self._gradient(name)}
        for method in net.methods:
            found[f"BackPACK {method}"] = self._backpack(name, EXTENSIONS[method])
            if method in FISHER_TYPES:
                found[f"curvlinops {method}"] = self._curvlinops(name, FISHER_TYPES[method])
        return found

    def check(self, name: str) -> tuple[float, float]:
        """The loss of a net and the norm of its gradient."""
        model, loss_fn, x, y = self._model(name)
        loss = loss_fn(model(x), y)
        loss.backward()
        squares = sum(float(p.grad.double().square().sum()) for p in model.parameters())
        return float(loss), squares**0.5

    def trained(self, method: str) -> None:
        """Neither is an optimizer."""
        raise NotImplementedError(f"there is no {method} to train with")

    def _gradient(self, name: str) -> Graph:
        model, loss_fn, x, y = self._model(name)

        def gradient() -> None:
            model.zero_grad()
            loss_fn(model(x), y).backward()

        return gradient

    def _backpack(self, name: str, extension: type) -> Graph:
        model, loss_fn, x, y = self._model(name)
        model, loss_fn = extend(model), extend(loss_fn)

        def factors() -> None:
            model.zero_grad()
            with backpack(extension()):
                loss_fn(model(x), y).backward()

        return factors

    def _curvlinops(self, name: str, fisher_type: str) -> Graph:
        model, loss_fn, x, y = self._model(name)
        weights = list(model.parameters())
        size = len(x)

        def factors() -> None:
            model.zero_grad()
            loss_fn(model(x), y).backward()
            KFACLinearOperator(
                model,
                loss_fn,
                weights,
                [(x, y)],
                fisher_type=fisher_type,
                check_deterministic=False,
                separate_weight_and_bias=False,
                num_data=size,
                num_per_example_loss_terms=1,
            ).compute_kronecker_factors()

        return factors

    def _model(self, name: str) -> tuple[torch.nn.Module, torch.nn.Module, torch.Tensor, ...]:
        net, path = self._nets[name], nets.path_of(self._folder, name)
        x, y = nets.read_batch(path)
        if len(net.inputs) == 3:
            x = x.transpose(0, 3, 1, 2)
        losses = {"classes": torch.nn.CrossEntropyLoss, "squares": torch.nn.MSELoss}
        model = build(net, nets.read_weights(path))
        return model, losses[net.loss](), torch.tensor(np.ascontiguousarray(x)), torch.tensor(y)


def build(net: nets.Net, weights: list[np.ndarray]) -> torch.nn.Sequential:
    """The net with these weights, channels first.

    Args:
        net: Its layers.
        weights: Kernels and biases in turn, in Keras' layout.
    """
    modules: list[torch.nn.Module] = []
    shape, remaining = net.inputs, iter(weights)
    flattened: tuple[int, ...] | None = None  # the image before it, whose channels are last
    for layer in net.layers:
        if layer.kind == "pooling":
            modules.append(torch.nn.MaxPool2d(2))
            shape = (shape[0] // 2, shape[1] // 2, shape[2])
        elif layer.kind == "flatten":
            modules.append(torch.nn.Flatten())
            shape, flattened = (int(np.prod(shape)),), shape
        else:
            kernel, bias = next(remaining), next(remaining)
            if layer.kind == "convolution":
                module = torch.nn.Conv2d(shape[-1], layer.outputs, 3, padding=1)
                kernel = kernel.transpose(3, 2, 0, 1)
            else:
                module = torch.nn.Linear(shape[-1], layer.outputs)
                if flattened:
                    kernel = kernel.reshape(*flattened, -1).transpose(2, 0, 1, 3)
                    kernel, flattened = kernel.reshape(-1, layer.outputs), None
                kernel = kernel.T
            with torch.no_grad():
                module.weight.copy_(torch.tensor(np.ascontiguousarray(kernel)))
                module.bias.copy_(torch.tensor(bias))
            shape = (*shape[:-1], layer.outputs)
            modules.append(module)
            if layer.activation:
                modules.append(ACTIVATIONS[layer.activation]())
    return torch.nn.Sequential(*modules)


if __name__ == "__main__":
    serve(OnTorch)
