"""The nets, their weights and batches, in a form that every framework can read."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

L2_PENALTY = 1e-5  # of all weights and biases of the trained autoencoder


class Layer(NamedTuple):
    """A layer.

    Attributes:
        kind: `"dense"`, `"convolution"` (3 x 3, padded), `"pooling"` (maxima of 2 x 2) or
            `"flatten"`.
        outputs: Units or channels, of those with weights.
        activation: `"tanh"`, `"relu"` or empty.
    """

    kind: str
    outputs: int = 0
    activation: str = ""

    @property
    def has_weights(self) -> bool:
        """Whether it has a kernel and a bias."""
        return self.outputs > 0


class Net(NamedTuple):
    """A net and its loss.

    Attributes:
        inputs: Shape of an input: pixels, or height, width and channels.
        layers: From inputs to outputs.
        loss: `"classes"` (cross-entropy with logits) or `"squares"` (mean over outputs) of the mean
            over the batch, or `"pixels"` (Bernoulli cross-entropy summed over pixels, and the L2
            penalty).
        batch: Examples in a batch.
        methods: Whose factors are compared.
    """

    inputs: tuple[int, ...]
    layers: tuple[Layer, ...]
    loss: str
    batch: int
    methods: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Of an example."""
        return self.layers[-1].outputs


def chain(widths: tuple[int, ...], activation: str) -> tuple[Layer, ...]:
    """Dense layers, the last one linear."""
    *hidden, last = widths
    return (*(Layer("dense", width, activation) for width in hidden), Layer("dense", last))


def mirrored(pixels: int, widths: tuple[int, ...]) -> tuple[Layer, ...]:
    """An autoencoder of tanh units with a linear code and linear outputs."""
    up = (*reversed(widths[:-1]), pixels)
    return (*chain(widths, "tanh"), *chain(up, "tanh"))


def convolutional(channels: tuple[int, ...], width: int) -> tuple[Layer, ...]:
    """Convolutions, each with pooling, and two dense layers for ten classes."""
    pooled = [
        layer for c in channels for layer in (Layer("convolution", c, "relu"), Layer("pooling"))
    ]
    return (*pooled, Layer("flatten"), *chain((width, 10), "relu"))


ALL = ("KFAC", "KFLR", "KFRA")
TRAINED = "trained autoencoder"


def nets(*, smoke: bool = False) -> dict[str, Net]:
    """By name.

    KFLR is left out for the autoencoder: it would send back a column for each of 784 pixels.

    Args:
        smoke: Tiny ones.
    """
    if smoke:
        encoder = mirrored(16, (8, 3))
        return {
            "MLP": Net((16,), chain((8, 10), "relu"), "classes", 8, ALL),
            "autoencoder": Net((16,), encoder, "squares", 8, ("KFAC", "KFRA")),
            "convolutional": Net((4, 4, 1), convolutional((2,), 4), "classes", 4, ALL),
            TRAINED: Net((16,), encoder, "pixels", 8),
        }
    encoder = mirrored(784, (1000, 500, 250, 30))
    return {
        "MLP": Net((784,), chain((512, 256, 10), "relu"), "classes", 512, ALL),
        "autoencoder": Net((784,), encoder, "squares", 1000, ("KFAC", "KFRA")),
        "convolutional": Net((28, 28, 1), convolutional((16, 32), 64), "classes", 128, ALL),
        TRAINED: Net((784,), encoder, "pixels", 1000),
    }


def in_words(net: Net) -> str:
    """Sizes from inputs to outputs, and the batch."""
    sizes = [layer.outputs for layer in net.layers if layer.has_weights]
    losses = {
        "classes": "cross-entropy",
        "squares": "mean squared error",
        "pixels": "Bernoulli cross-entropy and L2 penalty",
    }
    return (
        f"{'x'.join(map(str, net.inputs))}-{'-'.join(map(str, sizes))}, {losses[net.loss]}, "
        f"batches of {net.batch:,}"
    )


# Weights and data in files


def path_of(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file of a net."""
    return folder / f"{name.replace(' ', '-')}.npz"


def write(
    path: pathlib.Path, weights: list[np.ndarray], x: np.ndarray = (), y: np.ndarray = ()
) -> None:
    """Keep kernels and biases in turn, in Keras' layout, and a batch."""
    named = {f"weights{number}": value for number, value in enumerate(weights)}
    np.savez(path, x=x, y=y, **named)


def read_weights(path: pathlib.Path) -> list[np.ndarray]:
    """Kernels and biases in turn: of dense layers (inputs, outputs), else as Keras has them."""
    with np.load(path) as file:
        return [file[f"weights{number}"] for number in range(len(file.files) - 2)]


def read_batch(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, channels last, and targets."""
    with np.load(path) as file:
        return file["x"], file["y"]


def batches(images: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """Shuffled batches of full size, without end, in an order that the seed gives."""
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(len(images))
        for start in range(0, len(order) - size + 1, size):
            yield images[order[start : start + size]]
