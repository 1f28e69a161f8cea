"""Deep autoencoders: their data sets, their nets, and what they are trained on."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable

import keras
import numpy as np

import tf_kfgn

ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "logistic": "sigmoid"}
Images = tuple[np.ndarray, np.ndarray]  # training and test images, rows of pixels


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images, and the net that the literature trains on them.

    Attributes:
        load: Reads or makes the images; takes a path, or None, and a source of faces.
        pixels: Of an image.
        hidden: Widths of the layers before the code, after Hinton & Salakhutdinov (2006).
        code: Width of the linear code.
        gaussian: Whether outputs are means of Gaussians; else they are Bernoulli logits.
    """

    load: Callable[[pathlib.Path | None, str], Images]
    pixels: int
    hidden: tuple[int, ...]
    code: int
    gaussian: bool = False

    def net(self, kind: str) -> tuple[int, ...]:
        """Widths from the first hidden layer to the code.

        Args:
            kind: `"literature"`, or `"paper"` for the one net that Botev et al. (2017) train on
                all data sets.
        """
        return (*self.hidden, self.code) if kind == "literature" else (1000, 500, 250, 30)


def _load_curves(path: pathlib.Path | None, source: str) -> Images:
    del source
    if path is not None and path.is_dir():
        path = path / "digs3pts_1.mat"
    return tf_kfgn.datasets.curves.load_data(path)


def _load_faces(path: pathlib.Path | None, source: str) -> Images:
    return tf_kfgn.datasets.faces.load_data(path, source=source)


def _load_mnist(path: pathlib.Path | None, source: str) -> Images:
    del source
    return tf_kfgn.datasets.mnist.load_data(path)


DATASETS = {
    "curves": Dataset(_load_curves, 784, (400, 200, 100, 50, 25), 6),
    "faces": Dataset(_load_faces, 625, (2000, 1000, 500), 30, gaussian=True),
    "mnist": Dataset(_load_mnist, 784, (1000, 500, 250), 30),
}
FACES_SOURCE = "olivetti"


def title_of_data(dataset: str, path: pathlib.Path | None, source: str = FACES_SOURCE) -> str:
    """What to call the images: by their file or folder, if they come from one."""
    named = os.environ.get(tf_kfgn.datasets.mnist.FOLDER_VARIABLE)
    if path is None and dataset == "mnist" and named:
        path = pathlib.Path(named)
    if path is not None:
        return path.resolve().stem
    return tf_kfgn.datasets.faces.title(source=source) if dataset == "faces" else dataset.upper()


def build_autoencoder(
    pixels: int, widths: tuple[int, ...], activation: str, penalty: float, *, biases: bool = False
) -> keras.Model:
    """A stock Keras model from pixels to one output for each pixel, mirrored at a linear code.

    Args:
        pixels: Of an image.
        widths: From the first hidden layer to the code.
        activation: Of the hidden units, a key of `ACTIVATIONS`.
        penalty: Factor of the squares of the kernels in the objective.
        biases: Whether the squares of the biases are in it too.
    """

    def dense(width: int, function: str | None = None, name: str | None = None) -> keras.Layer:
        return keras.layers.Dense(
            width,
            activation=function,
            kernel_regularizer=keras.regularizers.L2(penalty),
            bias_regularizer=keras.regularizers.L2(penalty) if biases else None,
            name=name,
        )

    *hidden, code = widths
    function = ACTIVATIONS[activation]
    return keras.Sequential(
        [
            keras.Input((pixels,)),
            *(dense(width, function) for width in hidden),
            dense(code),
            *(dense(width, function) for width in reversed(hidden)),
            dense(pixels, name="outputs"),
        ]
    )
