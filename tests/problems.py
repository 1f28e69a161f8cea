"""Problems are data: a model, a batch and a loss, in float64.

A Keras loss computes in float32 unless it is told otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

REFERENCE = pathlib.Path(__file__).parent / "reference"
MANIFEST = json.loads((REFERENCE / "manifest.json").read_text())
LOSSES = {
    "SparseCategoricalCrossentropy(from_logits=True)": keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, dtype="float64"
    ),
    "MeanSquaredError()": keras.losses.MeanSquaredError(dtype="float64"),
    "BinaryCrossentropy(from_logits=True)": keras.losses.BinaryCrossentropy(
        from_logits=True, dtype="float64"
    ),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model and a batch for it.

    Attributes:
        name: For the ids of tests.
        model: Makes a stock Keras model in float64, the same with every call.
        x: Inputs.
        y: Targets.
        loss: A Keras loss object.
    """

    name: str
    model: Callable[[], keras.Model]
    x: np.ndarray
    y: np.ndarray
    loss: keras.losses.Loss

    def __str__(self) -> str:
        return self.name


def mlp(widths: list[int], activation: str | None, **kwargs: Any) -> keras.Sequential:
    """A float64 multilayer perceptron with linear outputs; `widths` starts with the input's."""
    layers = [
        keras.layers.Dense(
            width, activation if i < len(widths) - 2 else None, dtype="float64", **kwargs
        )
        for i, width in enumerate(widths[1:])
    ]
    return keras.Sequential([keras.Input((widths[0],), dtype="float64"), *layers])


def reference(name: str) -> tuple[Problem, dict[str, np.ndarray]]:
    """A problem of another library, and the values that it computed."""
    values = dict(np.load(REFERENCE / f"{name}.npz"))
    entry = MANIFEST[name]

    def model() -> keras.Model:
        if name.startswith("sequence"):
            made = sequence_model()
        else:
            made = mlp(entry["layers"], entry["activation"])
        dense = [layer for layer in made.layers if isinstance(layer, keras.layers.Dense)]
        for i, layer in enumerate(dense):
            layer.set_weights([values[f"kernel_{i}"], values[f"bias_{i}"]])
        return made

    return Problem(name, model, values["x"], values["y"], LOSSES[entry["loss"]]), values


def sequence_model() -> keras.Sequential:
    """Two dense layers on each position of a sequence, the mean over it, and a dense layer."""
    return keras.Sequential(
        [
            keras.Input((5, 6), dtype="float64"),
            keras.layers.Dense(5, "tanh", dtype="float64"),
            keras.layers.Dense(4, dtype="float64"),
            keras.layers.GlobalAveragePooling1D(dtype="float64"),
            keras.layers.Dense(3, dtype="float64"),
        ]
    )


def seeded(make: Callable[[], keras.Model], seed: int = 0) -> Callable[[], keras.Model]:
    """A maker whose models start from the same random weights, biases included."""

    def model() -> keras.Model:
        made = make()
        generator = np.random.default_rng(seed)
        for variable in made.trainable_variables:
            variable.assign(generator.normal(size=variable.shape) / np.sqrt(variable.shape[0]))
        return made

    return model


def problem(
    name: str, make: Callable[[], keras.Model], loss: keras.losses.Loss, batch: int = 7
) -> Problem:
    """A problem with random weights and data that fit model and loss."""
    model = seeded(make)()
    generator = np.random.default_rng(1)
    x = generator.normal(size=(batch, *model.input_shape[1:]))
    shape = (batch, *model.output_shape[1:])
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        y = generator.integers(shape[-1], size=shape[:-1])
    elif isinstance(loss, keras.losses.CategoricalCrossentropy):
        y = generator.dirichlet(np.ones(shape[-1]), size=shape[:-1])
    else:
        y = generator.uniform(size=shape)
    return Problem(name, seeded(make), x, y, loss)
