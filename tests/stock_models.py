"""Small stock models that a process without tf_kfgn can make too."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def sequential() -> keras.Model:
    first, last = layers.Dense(4, "tanh", name="first"), layers.Dense(3, name="last")
    return keras.Sequential([keras.Input((5,)), first, last])


def convolutional() -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    hidden = layers.Conv2D(3, 3, activation="relu")(inputs)
    hidden = layers.Dropout(0.3, seed=1)(layers.BatchNormalization()(hidden))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(hidden)))


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = layers.Dense(4, "tanh")
        self.dropout = layers.Dropout(0.3, seed=2)
        self.last = layers.Dense(3)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.last(self.dropout(self.first(inputs), training=training))


def subclassed() -> keras.Model:
    model = Subclassed()
    model(keras.ops.zeros((1, 5)))
    return model


def two_by_two() -> keras.Model:
    """Two inputs and two outputs, by their names."""
    inputs = {name: keras.Input((size,), name=name) for name, size in (("image", 4), ("angle", 2))}
    hidden = layers.Dense(5, "tanh")(layers.Concatenate()(list(inputs.values())))
    hidden = layers.Dropout(0.2, seed=3)(hidden)
    outputs = {name: layers.Dense(size, name=name)(hidden) for name, size in (("a", 2), ("b", 1))}
    return keras.Model(inputs, outputs)
