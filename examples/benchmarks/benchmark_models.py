"""Small architectures of different kinds, on which the cost of the methods is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

layers = keras.layers
CLASSES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BINARY = keras.losses.BinaryCrossentropy(from_logits=True)


class Architecture(NamedTuple):
    """A model, its loss, and how large a batch is.

    Attributes:
        name: For the table.
        make: Makes the model.
        loss: What `compile` takes.
        batch_size: Examples in a batch.
        classes: Number of classes, for targets that are integers; None for numbers in [0, 1].
        tokens: Size of the vocabulary, for inputs that are integers; None for normal numbers.
    """

    name: str
    make: Callable[[], keras.Model]
    loss: keras.losses.Loss | str
    batch_size: int
    classes: int | None = None
    tokens: int | None = None

    def batch(self, model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
        """A random batch."""
        generator = np.random.default_rng(0)
        shape = (self.batch_size, *model.input_shape[1:])
        if self.tokens is None:
            x = generator.normal(size=shape).astype("float32")
        else:
            x = generator.integers(self.tokens, size=shape)
        outputs = (self.batch_size, *model.output_shape[1:])
        if self.classes is None:
            return x, generator.uniform(size=outputs).astype("float32")
        return x, generator.integers(self.classes, size=outputs[:-1])


def mlp(*widths: int) -> keras.Model:
    """Dense layers with these widths, that of the inputs first."""
    hidden = [layers.Dense(width, "tanh") for width in widths[1:-1]]
    return keras.Sequential([keras.Input(widths[:1]), *hidden, layers.Dense(widths[-1])])


def convolutional() -> keras.Model:
    """Two convolutions with pooling, and two dense layers."""
    return keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(16, 3, padding="same", activation="tanh"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="tanh"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, "tanh"),
            layers.Dense(10),
        ]
    )


def residual() -> keras.Model:
    """A residual block with batch normalisation."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    x = skip = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.Add()([layers.BatchNormalization()(x), skip]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def series() -> keras.Model:
    """Convolutions over time, then the mean."""
    return keras.Sequential(
        [
            keras.Input((64, 4)),
            layers.Conv1D(32, 5, padding="same", activation="tanh"),
            layers.Conv1D(32, 5, padding="same", activation="tanh"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ]
    )


def transformer() -> keras.Model:
    """A block of attention, and a token for each position."""
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(32, 32)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 16)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(32)(layers.Dense(64, "gelu")(x)))
    return keras.Model(inputs, layers.Dense(32)(x))


def text() -> keras.Model:
    """The mean of word vectors, and a dense layer."""
    inputs = keras.Input((40,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(5000, 32)(inputs))
    return keras.Model(inputs, layers.Dense(1)(layers.Dense(32, "tanh")(x)))


ARCHITECTURES = [
    Architecture("regression 64-128-128-1", lambda: mlp(64, 128, 128, 1), "mse", 1024),
    Architecture("classes 784-256-256-10", lambda: mlp(784, 256, 256, 10), CLASSES, 256, 10),
    Architecture("classes 128-512-100", lambda: mlp(128, 512, 100), CLASSES, 256, 100),
    Architecture(
        "autoencoder 784-400-100-20-...",
        lambda: mlp(784, 400, 100, 20, 100, 400, 784),
        BINARY,
        256,
    ),
    Architecture("convolutional", convolutional, CLASSES, 128, 10),
    Architecture("residual, batch norm", residual, CLASSES, 256, 10),
    Architecture("series", series, "mse", 128),
    Architecture("transformer", transformer, CLASSES, 256, 32, tokens=32),
    Architecture("text", text, BINARY, 256, tokens=5000),
]
