"""Tasks with convolutions."""

from __future__ import annotations

import keras
from _task import ERROR, ONE_HOT_ERROR, SIGN_ERROR, Task, without_kflr
from keras import layers

from _tasks import data

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build_mnist_convnet() -> keras.Model:
    """The convolutional net of keras.io's first example."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(data.CLASSES, activation="softmax", name="outputs"),
        ]
    )


def build_batchnorm_convnet() -> keras.Model:
    """Convolutions with batch normalisation and dropout."""
    return keras.Sequential(
        [
            keras.Input((14, 14, 1)),
            *_normalised(layers.Conv2D(16, 3, padding="same", use_bias=False)),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            *_normalised(layers.Conv2D(32, 3, padding="same", use_bias=False)),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Flatten(),
            *_normalised(layers.Dense(64, use_bias=False)),
            layers.Dropout(0.5),
            layers.Dense(data.CLASSES, name="outputs"),
        ]
    )


def _normalised(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    return [layer, layers.BatchNormalization(), layers.Activation("relu")]


def build_resnet8() -> keras.Model:
    """ResNet-8: a convolution, three residual blocks of 16, 32 and 64 filters, a global mean."""

    def convolution(x, filters, size=3, strides=1):
        layer = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)
        return layers.BatchNormalization()(layer(x))

    images = keras.Input((14, 14, 1))
    x = layers.Activation("relu")(convolution(images, 16))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.Activation("relu")(convolution(x, filters, strides=strides))
        y = convolution(y, filters)
        if strides > 1:
            x = convolution(x, filters, size=1, strides=strides)
        x = layers.Activation("relu")(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(data.CLASSES, name="outputs")(x))


def build_unet() -> keras.Model:
    """A U-Net with two levels, from an image to the logit of each pixel."""

    def twice(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return x

    images = keras.Input((28, 28, 1))
    fine = twice(images, 8)
    middle = twice(layers.MaxPooling2D()(fine), 16)
    x = twice(layers.MaxPooling2D()(middle), 32)
    for skipped, filters in ((middle, 16), (fine, 8)):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = twice(layers.Concatenate()([x, skipped]), filters)
    return keras.Model(images, layers.Conv2D(1, 1, name="outputs")(x))


TASKS = (
    Task(
        "mnist_convnet",
        "keras.io's first convolutional net, on Fashion-MNIST",
        data.fashion_one_hot,
        build_mnist_convnet,
        keras.losses.CategoricalCrossentropy(),
        ONE_HOT_ERROR,
        batch_sizes=(32, 128),
        updates=(100, 100),
        seconds=(6.3, 10.0),
    ),
    Task(
        "batchnorm_convnet",
        "Convolutional net with batch normalisation and dropout, on small Fashion-MNIST",
        data.fashion_small,
        build_batchnorm_convnet,
        LOGITS,
        ERROR,
        batch_sizes=(32, 500),
        updates=(300, 100),
        seconds=(2.6, 6.1),
    ),
    Task(
        "resnet8",
        "ResNet-8 with batch normalisation, on small Fashion-MNIST",
        data.fashion_small,
        build_resnet8,
        LOGITS,
        ERROR,
        batch_sizes=(32, 128),
        updates=(200, 100),
        seconds=(4.5, 6.8),
    ),
    Task(
        "unet",
        "U-Net that finds the foreground of noisy Fashion-MNIST",
        data.fashion_foreground,
        build_unet,
        keras.losses.BinaryCrossentropy(from_logits=True),
        SIGN_ERROR,
        batch_sizes=(16, 64),
        updates=(150, 100),
        seconds=(4.1, 8.7),
        left_out=without_kflr(28 * 28, "pixels"),
    ),
)
