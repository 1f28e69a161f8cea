"""Makes the `.npz` files that `convolution.json` names after a library, next to this script.

Needs torch, backpack-for-pytorch and curvlinops-for-pytorch; no test runs it.
"""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import numpy as np
import torch
from backpack import backpack, extend
from backpack.extensions import KFLR, KFRA
from backpack.extensions.secondorder.hbp.conv2d import HBPConv2d
from curvlinops import FisherType, KFACLinearOperator, KFACType
from torch import nn

HERE = pathlib.Path(__file__).parent
BATCH = 6
LOSSES = {
    "SparseCategoricalCrossentropy(from_logits=True)": nn.CrossEntropyLoss,
    "MeanSquaredError()": nn.MSELoss,
}


def padding(size: int, kernel_size: int, strides: int = 1, **config: Any) -> tuple[int, int]:
    """The zeros that Keras' convolution puts before and after an axis."""
    if config.get("padding", "valid") == "valid":
        return 0, 0
    total = max((math.ceil(size / strides) - 1) * strides + kernel_size - size, 0)
    return total // 2, total - total // 2


def translated(kind: str, config: dict[str, Any], shape: torch.Size) -> list[nn.Module]:
    """The modules that do what a Keras layer does on inputs of that shape."""
    match kind:
        case "Conv2D":
            before, after = padding(shape[-1], **config)
            pads = [] if before == after else [nn.ZeroPad2d((before, after, before, after))]
            convolution = nn.Conv2d(
                shape[1],
                config["filters"],
                config["kernel_size"],
                config.get("strides", 1),
                padding=0 if pads else before,
                groups=config.get("groups", 1),
                bias=config.get("use_bias", True),
            )
            return [*pads, convolution]
        case "Activation":
            return [{"tanh": nn.Tanh}[config["activation"]]()]
        case "MaxPooling2D":
            return [nn.MaxPool2d(config["pool_size"])]
        case "AveragePooling2D":
            return [nn.AvgPool2d(config["pool_size"])]
        case "GlobalAveragePooling2D":
            return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        case "Flatten":
            return [nn.Flatten()]
        case "Dense":
            return [nn.Linear(shape[1], config["units"])]
    raise ValueError(f"No translation of {kind}.")


def network(layers: list[tuple[str, dict[str, Any]]], x: torch.Tensor) -> nn.Sequential:
    """The same network, with random weights."""
    modules = []
    for kind, config in layers:
        for module in translated(kind, config, x.shape):
            x = module(x)
            modules.append(module)
    return nn.Sequential(*modules)


def parametrised(net: nn.Sequential, x: torch.Tensor) -> dict[str, tuple[nn.Module, np.ndarray]]:
    """By name, each layer with weights, and the indices that bring its inputs to Keras' order.

    Torch orders the inputs of a kernel (channels, height, width), and Keras (height, width,
    channels). That holds for patches and for flattened images.
    """
    found = {}
    image = x.shape[1:]
    for name, module in net.named_children():
        if isinstance(module, nn.Flatten):
            image = x.shape[1:]
        x = module(x)
        if isinstance(module, nn.Conv2d | nn.Linear):
            shape = module.weight.shape[1:] if isinstance(module, nn.Conv2d) else image
            order = np.arange(math.prod(shape)).reshape(shape).transpose(1, 2, 0).ravel()
            found[name] = module, order
    return found


def reordered(matrix: torch.Tensor, order: np.ndarray) -> np.ndarray:
    """An input factor in Keras' order, its bias, if any, last."""
    indices = np.concatenate([order, np.arange(len(order), len(matrix))])
    return matrix.detach().numpy()[np.ix_(indices, indices)]


def weights(layers: dict[str, tuple[nn.Module, np.ndarray]]) -> dict[str, np.ndarray]:
    """Kernels and biases in Keras' layout."""
    values = {}
    for i, (module, order) in enumerate(layers.values()):
        weight = module.weight.detach().flatten(1).numpy().T[order]
        if isinstance(module, nn.Conv2d):
            _, channels, *size = module.weight.shape
            weight = weight.reshape(*size, channels, -1)
        values[f"kernel_{i}"] = weight
        if module.bias is not None:
            values[f"bias_{i}"] = module.bias.detach().numpy()
    return values


class _Recording(HBPConv2d):
    """Keeps the average that KFRA propagates, of which BackPACK keeps a sum over pixels."""

    def _factor_from_batch_average(
        self, module: nn.Conv2d, backproped: torch.Tensor
    ) -> torch.Tensor:
        module.average = backproped
        return super()._factor_from_batch_average(module, backproped)


def of_backpack(
    net: nn.Sequential,
    loss: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    layers: dict[str, tuple[nn.Module, np.ndarray]],
) -> dict[str, np.ndarray]:
    """BackPACK's factors by KFRA and KFLR."""
    kfra = KFRA()
    kfra.set_module_extension(nn.Conv2d, _Recording(), overwrite=True)
    net, loss = extend(net), extend(loss)
    with backpack(kfra, KFLR()):
        loss(net(x), y).backward()
    values = {}
    for i, (module, order) in enumerate(layers.values()):
        for method in ["kfra", "kflr"]:
            G, A = getattr(module.weight, method)
            (of_bias,) = getattr(module.bias, method)
            assert torch.equal(G, of_bias)
            assert torch.equal(A, module.weight.kfra[1])
            values[f"{method}_G_{i}"] = G.detach().numpy()
            values[f"A_{i}"] = reordered(A, order)
        if isinstance(module, nn.Conv2d):
            channels, positions = len(G), len(module.average) // len(G)
            average = module.average.reshape(channels, positions, channels, positions)
            mean = torch.einsum("itjt->ij", average) / positions
            values[f"kfra_expand_G_{i}"] = mean.detach().numpy()
    return values


def of_curvlinops(
    net: nn.Sequential,
    loss: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    layers: dict[str, tuple[nn.Module, np.ndarray]],
) -> dict[str, np.ndarray]:
    """The factors of curvlinops' KFAC with the exact curvature of the loss, which is KFLR."""
    values = {}
    for approximation in [KFACType.EXPAND, KFACType.REDUCE]:
        kfac = KFACLinearOperator(
            net,
            loss,
            list(net.parameters()),
            [(x, y)],
            fisher_type=FisherType.TYPE2,
            kfac_approx=approximation,
            separate_weight_and_bias=False,
            check_deterministic=False,  # the check would compute the factors, and add to them
        )
        kfac.compute_kronecker_factors()
        prefix = f"type2_{approximation.value}"
        for i, (name, (_, order)) in enumerate(layers.items()):
            values[f"{prefix}_A_{i}"] = reordered(kfac._input_covariances[name], order)
            values[f"{prefix}_G_{i}"] = kfac._gradient_covariances[name].numpy()
    return values


def reference(
    library: str, shape: list[int], layers: list[tuple[str, dict[str, Any]]], loss: str
) -> dict[str, np.ndarray]:
    """The problem and the values of one library."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, shape[-1], *shape[:-1])
    net = network(layers, x)
    outputs = net(x).detach()
    y = torch.randn_like(outputs)
    if LOSSES[loss] is nn.CrossEntropyLoss:
        y = torch.randint(outputs.shape[1], (BATCH,))
    found = parametrised(net, x)
    factors = {"backpack": of_backpack, "curvlinops": of_curvlinops}[library]
    return {
        "x": x.numpy(),
        "y": y.numpy(),
        "loss": LOSSES[loss]()(outputs, y).numpy(),
        **weights(found),
        **factors(net, LOSSES[loss](), x, y, found),
    }


def main() -> None:
    """Writes every file."""
    torch.set_default_dtype(torch.float64)  # BackPACK makes buffers of the default
    for name, entry in json.loads((HERE / "convolution.json").read_text()).items():
        library = name.rpartition("_")[-1]
        if library in ["backpack", "curvlinops"]:
            values = reference(library, entry["input"], entry["layers"], entry["loss"])
            np.savez(HERE / f"{name}.npz", **values)
            print(name, float(values["loss"]), {key: v.shape for key, v in values.items()})


if __name__ == "__main__":
    main()
