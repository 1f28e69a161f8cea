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
MANIFEST = json.loads((REFERENCE / "manifest.json").read_text())  # with Kronecker factors
PRODUCTS = json.loads((REFERENCE / "products.json").read_text())  # with products and spectra
LOSSES = {
    "SparseCategoricalCrossentropy(from_logits=True)": keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, dtype="float64"
    ),
    "MeanSquaredError()": keras.losses.MeanSquaredError(dtype="float64"),
    "BinaryCrossentropy(from_logits=True)": keras.losses.BinaryCrossentropy(
        from_logits=True, dtype="float64"
    ),
}
MSE = LOSSES["MeanSquaredError()"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model and a batch for it.

    Attributes:
        name: For the ids of tests.
        model: Makes a stock Keras model in float64, the same with every call.
        x: Inputs.
        y: Targets.
        loss: A Keras loss object.
        sample_weight: As the loss takes it.
        logits: The same objective, of a model that ends before its softmax or sigmoid.
    """

    name: str
    model: Callable[[], keras.Model]
    x: np.ndarray
    y: np.ndarray
    loss: keras.losses.Loss
    sample_weight: np.ndarray | None = None
    logits: Problem | None = None

    def __str__(self) -> str:
        return self.name


def dense(units: int, activation: Any = None, **kwargs: Any) -> keras.layers.Dense:
    """A stock float64 layer."""
    return keras.layers.Dense(units, activation, dtype="float64", **kwargs)


def dropout(rate: float, **kwargs: Any) -> keras.layers.Dropout:
    """A stock float64 layer."""
    return keras.layers.Dropout(rate, dtype="float64", **kwargs)


def sequential(shape: tuple[int, ...], *layers: keras.layers.Layer) -> keras.Sequential:
    """A stock float64 model."""
    return keras.Sequential([keras.Input(shape, dtype="float64"), *layers])


def mlp(widths: list[int], activation: str | None, **kwargs: Any) -> keras.Sequential:
    """A float64 multilayer perceptron with linear outputs; `widths` starts with the input's."""
    hidden = [dense(width, activation, **kwargs) for width in widths[1:-1]]
    return sequential((widths[0],), *hidden, dense(widths[-1], **kwargs))


def sequence_model() -> keras.Sequential:
    """Two dense layers on each position of a sequence, the mean over it, and a dense layer."""
    mean = keras.layers.GlobalAveragePooling1D(dtype="float64")
    return sequential((5, 6), dense(5, "tanh"), dense(4), mean, dense(3))


def reference(name: str) -> tuple[Problem, dict[str, np.ndarray]]:
    """A problem of another library, and the values that it computed."""
    values = dict(np.load(REFERENCE / f"{name}.npz"))
    entry = {**MANIFEST, **PRODUCTS}[name]

    def model() -> keras.Model:
        if name.startswith("sequence"):
            made = sequence_model()
        else:
            made = mlp(entry["layers"], entry["activation"])
        kernels = [layer for layer in made.layers if isinstance(layer, keras.layers.Dense)]
        for i, layer in enumerate(kernels):
            layer.set_weights([values[f"kernel_{i}"], values[f"bias_{i}"]])
        return made

    return Problem(name, model, values["x"], values["y"], LOSSES[entry["loss"]]), values


def seeded(make: Callable[[], keras.Model], seed: int = 0) -> Callable[[], keras.Model]:
    """A maker whose models start from the same random weights, biases included."""

    def model() -> keras.Model:
        made = make()
        generator = np.random.default_rng(seed)
        for variable in made.trainable_variables:
            variable.assign(generator.normal(size=variable.shape) / np.sqrt(variable.shape[0]))
        return made

    return model


def random_problem(
    name: str,
    make: Callable[[], keras.Model],
    loss: keras.losses.Loss = MSE,
    batch: int = 7,
    **kwargs: Any,
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
    return Problem(name, seeded(make), x, y, loss, **kwargs)


def head_problem(
    name: str, loss: type[keras.losses.Loss], head: Callable[[], list[keras.layers.Layer]]
) -> Problem:
    """A problem whose model returns probabilities, next to the same one with logits."""
    logits = random_problem(
        f"{name}, logits",
        lambda: sequential((4,), dense(5, "tanh"), dense(3)),
        loss(from_logits=True, dtype="float64"),
    )
    return random_problem(
        name,
        lambda: sequential((4,), dense(5, "tanh"), *head()),
        loss(dtype="float64"),
        logits=logits,
    )


def _everything() -> keras.Model:
    return sequential(
        (2, 3),
        keras.layers.Flatten(dtype="float64"),
        dense(6, "gelu", use_bias=False),
        keras.layers.LeakyReLU(negative_slope=0.2, dtype="float64"),
        keras.layers.Reshape((3, 2), dtype="float64"),
        dense(2, "softplus"),
        keras.layers.Flatten(data_format="channels_first", dtype="float64"),
        keras.layers.Softmax(dtype="float64"),
        dense(3),
    )


_ALL = [
    *(reference(name)[0] for name in MANIFEST),
    random_problem(
        "weights of examples",
        lambda: mlp([4, 3, 2], "elu"),
        sample_weight=np.random.default_rng(2).uniform(0.5, 2.0, size=7),
    ),
    random_problem("loss on each position", lambda: sequential((3, 4), dense(3, "tanh"), dense(2))),
    random_problem("many layers", _everything),
    head_problem(
        "softmax as activation",
        keras.losses.SparseCategoricalCrossentropy,
        lambda: [dense(3, "softmax")],
    ),
    head_problem(
        "softmax as layer",
        keras.losses.CategoricalCrossentropy,
        lambda: [dense(3), keras.layers.Softmax(dtype="float64")],
    ),
    head_problem(
        "sigmoid as layer",
        keras.losses.BinaryCrossentropy,
        lambda: [dense(3), keras.layers.Activation("sigmoid", dtype="float64")],
    ),
]
PROBLEMS = {problem.name: problem for problem in _ALL}
