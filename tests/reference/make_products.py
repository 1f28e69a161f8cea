"""Makes the files named `products_*`, next to this script, with curvlinops.

Needs torch and curvlinops-for-pytorch; no test runs it. Problems come from `products.json`.
"""

from __future__ import annotations

import itertools
import json
import pathlib

import numpy as np
import torch
from curvlinops import GGNLinearOperator, HessianLinearOperator
from torch import nn

HERE = pathlib.Path(__file__).parent
BATCH = 6
LOSSES = {
    "SparseCategoricalCrossentropy(from_logits=True)": nn.CrossEntropyLoss,
    "MeanSquaredError()": nn.MSELoss,
}
ACTIVATIONS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
OPERATORS = {"ggn": GGNLinearOperator, "hessian": HessianLinearOperator}


def network(widths: list[int], activation: str) -> nn.Sequential:
    """Dense layers with biases; the last one is linear."""
    modules: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        modules += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*modules[:-1])


def keras_order(net: nn.Sequential) -> np.ndarray:
    """Where the weights, in the order of Keras, are among the parameters of torch.

    Both have kernel and bias of the first layer first. A kernel is (out, in) in torch and (in,
    out) in Keras, each row-major.
    """
    places, start = [], 0
    for parameter in net.parameters():
        numbers = start + np.arange(parameter.numel()).reshape(parameter.shape)
        places.append(numbers.T.ravel())
        start += parameter.numel()
    return np.concatenate(places)


def reference(widths: list[int], activation: str, loss_name: str) -> dict[str, np.ndarray]:
    """A problem and the values of curvlinops, all in the order of Keras."""
    torch.manual_seed(0)
    net, loss = network(widths, activation), LOSSES[loss_name]()
    x = torch.randn(BATCH, widths[0])
    y = torch.randn(BATCH, widths[-1])
    if isinstance(loss, nn.CrossEntropyLoss):
        y = torch.randint(widths[-1], (BATCH,))
    order = keras_order(net)
    vector = torch.randn(len(order)).numpy()  # in the order of Keras
    of_torch = np.empty_like(vector)
    of_torch[order] = vector
    values = {
        "x": x.numpy(),
        "y": y.numpy(),
        "loss": loss(net(x), y).detach().numpy(),
        "vector": vector,
    }
    layers = [module for module in net if isinstance(module, nn.Linear)]
    for i, layer in enumerate(layers):
        values[f"kernel_{i}"] = layer.weight.detach().numpy().T
        values[f"bias_{i}"] = layer.bias.detach().numpy()
    for name, operator in OPERATORS.items():
        made = operator(net, loss, list(net.parameters()), [(x, y)])
        dense = (made @ torch.eye(len(order))).detach().numpy()
        product = (made @ torch.from_numpy(of_torch)).detach().numpy()
        values[f"{name}_product"] = product[order]
        values[f"{name}_trace"] = np.trace(dense)
        values[f"{name}_spectrum"] = np.linalg.eigvalsh(dense)
    return values


def main() -> None:
    """Writes every file."""
    torch.set_default_dtype(torch.float64)
    for name, entry in json.loads((HERE / "products.json").read_text()).items():
        values = reference(entry["layers"], entry["activation"], entry["loss"])
        np.savez(HERE / f"{name}.npz", **values)
        print(name, {key: value.shape for key, value in values.items()})


if __name__ == "__main__":
    main()
