"""Ten networks that people train, at a small size: stock Keras, with data and a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import Input, layers, ops

N = 16


class Network(NamedTuple):
    """A network and how to train it.

    Attributes:
        build: Makes the stock model.
        x: A batch of inputs.
        y: Its targets.
        loss: What `compile` takes.
        recursive: Whether KFRA trains it too (it goes through all that the model computes).
        deep: Whether it takes so long to trace that one method must do.
    """

    build: Callable[[], keras.Model]
    x: Any
    y: Any
    loss: Any = "mse"
    recursive: bool = True
    deep: bool = False


def classes(count: int = 3) -> np.ndarray:
    return np.arange(N) % count


def images(size: int, channels: int = 3) -> np.ndarray:
    """Images whose brightness and pattern depend on their class."""
    generator = np.random.default_rng(0)
    pattern = generator.normal(size=(3, size, size, channels))
    return (pattern[classes()] + 0.3 * generator.normal(size=(N, size, size, channels))).astype(
        "float32"
    )


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(N, *shape)).astype("float32")


def tokens(length: int = 6) -> np.ndarray:
    made = np.random.default_rng(2).integers(1, 12, size=(N, length))
    made[::2, length // 2 :] = 0  # ragged lengths, padded
    return made


LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def resnet() -> keras.Model:
    return keras.applications.ResNet50V2(
        weights=None, input_shape=(32, 32, 3), classes=3, classifier_activation=None
    )


def mobilenet() -> keras.Model:
    return keras.applications.MobileNetV3Small(
        weights=None,
        input_shape=(32, 32, 3),
        classes=3,
        classifier_activation=None,
        include_preprocessing=False,
    )


def unet() -> keras.Model:
    def block(x: Any, filters: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return x

    inputs = Input((16, 16, 3))
    first = block(inputs, 4)
    second = block(layers.MaxPooling2D()(first), 8)
    bottom = block(layers.MaxPooling2D()(second), 8)
    up = layers.Conv2DTranspose(8, 2, strides=2)(bottom)
    up = block(layers.Concatenate()([up, second]), 8)
    up = layers.Conv2DTranspose(4, 2, strides=2)(up)
    up = block(layers.Concatenate()([up, first]), 4)
    return keras.Model(inputs, layers.Conv2D(1, 1)(up))


def transformer() -> keras.Model:
    inputs = Input((6,), dtype="int32")
    x = layers.Embedding(12, 8, mask_zero=True)(inputs)
    for _ in range(2):
        x = layers.LayerNormalization()(
            layers.Add()([x, layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x)])
        )
        hidden = layers.Dense(8)(layers.Dense(16, "gelu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, layers.Dropout(0.1)(hidden)]))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def mixer() -> keras.Model:
    inputs = Input((8, 8, 3))
    x = layers.Reshape((16, 8))(layers.Conv2D(8, 2, strides=2)(inputs))
    for _ in range(2):
        y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        y = layers.Dense(16)(layers.Dense(8, "gelu")(y))
        x = layers.Add()([x, layers.Permute((2, 1))(y)])
        y = layers.Dense(8)(layers.Dense(16, "gelu")(layers.LayerNormalization()(x)))
        x = layers.Add()([x, y])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def siamese() -> keras.Model:
    encoder = keras.Sequential(
        [
            Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(6),
        ]
    )
    first, second = Input((8, 8, 1)), Input((8, 8, 1))
    distance = layers.Subtract()([encoder(first), encoder(second)])
    return keras.Model([first, second], layers.Dense(1)(layers.Multiply()([distance, distance])))


def two_heads() -> keras.Model:
    inputs = Input((10,))
    trunk = layers.Dense(8, "tanh")(layers.Dense(12, "tanh")(inputs))
    outputs = {
        "value": layers.Dense(2)(layers.Dense(4, "tanh")(trunk)),
        "kind": layers.Dense(3)(trunk),
    }
    return keras.Model(inputs, outputs)


def masked_lstm() -> keras.Model:
    return keras.Sequential(
        [
            Input((6,), dtype="int32"),
            layers.Embedding(12, 6, mask_zero=True),
            layers.LSTM(8),
            layers.Dense(3),
        ]
    )


@keras.saving.register_keras_serializable("tests")
class Sampling(layers.Layer):
    """Draws the code, and adds its divergence from the prior to the loss."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs: Any) -> Any:
        mean, log_variance = inputs
        divergence = ops.exp(log_variance) + ops.square(mean) - 1 - log_variance
        self.add_loss(0.01 * ops.mean(divergence))
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise


def autoencoder() -> keras.Model:
    inputs = Input((10,))
    hidden = layers.Dense(8, "tanh")(inputs)
    code = Sampling()([layers.Dense(2)(hidden), layers.Dense(2)(hidden)])
    return keras.Model(inputs, layers.Dense(10)(layers.Dense(8, "tanh")(code)))


class Own(keras.Model):
    """A subclassed model with a loop over its layers and operations of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = [layers.Dense(8, "tanh") for _ in range(3)]
        self.norm, self.out = layers.BatchNormalization(), layers.Dense(2)

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.cells[0](x)
        for cell in self.cells[1:]:
            x = x + 0.5 * cell(x)
        return self.out(self.norm(x, training=training))


NETWORKS = {
    "ResNet50V2": Network(resnet, images(32), classes(), LOGITS, deep=True),
    "MobileNetV3Small": Network(mobilenet, images(32), classes(), LOGITS, deep=True),
    "U-Net": Network(
        unet, images(16), images(16)[..., :1] > 0, keras.losses.BinaryCrossentropy(True)
    ),
    "transformer": Network(transformer, tokens(), classes(), LOGITS),
    "MLP-Mixer": Network(mixer, images(8), classes(), LOGITS),
    "siamese": Network(siamese, [images(8, 1), images(8, 1)[::-1]], rows(1)),
    "two heads": Network(
        two_heads,
        rows(10),
        {"value": rows(2), "kind": classes()},
        {"value": "mse", "kind": LOGITS},
    ),
    "masked LSTM": Network(masked_lstm, tokens(), classes(), LOGITS),
    "variational autoencoder": Network(autoencoder, rows(10), rows(10)),
    "subclassed": Network(Own, rows(10), rows(2), recursive=False),
}
