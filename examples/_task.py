"""What a task of the bench is: data, a stock Keras model, a loss and a metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]  # inputs and targets


class Data(NamedTuple):
    """Examples to train on, and others to validate on."""

    train: Arrays
    validation: Arrays


class Metric(NamedTuple):
    """What a user looks at; lower is better.

    Attributes:
        name: For a table.
        values: From targets and outputs to values of which the mean is taken.
    """

    name: str
    values: Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """Something that somebody trains on any day.

    ```python
    task = TASKS["digits_mlp"]
    model = task.make_model(seed=0)
    task.compile(model, keras.optimizers.Adam())
    model.fit(*task.data().train, batch_size=task.batch_sizes[0])
    ```

    Attributes:
        name: Its key in `TASKS`.
        title: Net and data in a line.
        data: Reads or makes the data, once.
        build: Builds the stock Keras model, without seeding anything.
        loss: From targets and outputs.
        metric: Of the validation examples.
        batch_sizes: A small one, and a large one or the whole training set.
        updates: Of a run, for each batch size.
        seconds: That so many updates of KFAC take on two cores, about, for an estimate.
        loss_weight: Factor of the loss.
        left_out: From a method's key to the reason why it is not run.
    """

    name: str
    title: str
    data: Callable[[], Data]
    build: Callable[[], keras.Model]
    loss: keras.losses.Loss
    metric: Metric
    batch_sizes: tuple[int, ...]
    updates: tuple[int, ...]
    seconds: tuple[float, ...]
    loss_weight: float = 1.0
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def make_model(self, seed: int) -> keras.Model:
        """The model, not compiled, with the weights and dropout masks that the seed gives."""
        keras.utils.set_random_seed(seed)
        return self.build()

    def compile(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        """Compile with the loss of the task, for a plain graph."""
        weights = None if self.loss_weight == 1 else [self.loss_weight]
        model.compile(optimizer=optimizer, loss=self.loss, loss_weights=weights, jit_compile=False)

    def objective(self, model: keras.Model, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """What `fit` minimises, regularisers included, in inference mode; and the outputs."""
        outputs = model(inputs, training=False)
        return self.loss_weight * self.loss(targets, outputs) + sum(model.losses), outputs


def without_kflr(count: int, outputs: str) -> dict[str, str]:
    """The entry of `left_out` where a net has many outputs."""
    return {"kflr": f"a backward pass for each of {count} {outputs}"}


def _wrong_class(targets: Any, scores: Any) -> Any:
    return 1 - keras.metrics.sparse_categorical_accuracy(targets, scores)


def _wrong_one_hot(targets: Any, scores: Any) -> Any:
    return 1 - keras.metrics.categorical_accuracy(targets, scores)


def _wrong_sign(targets: Any, logits: Any) -> Any:
    return 1 - keras.metrics.binary_accuracy(targets, logits, threshold=0.0)


def _wrong_probability(targets: Any, probabilities: Any) -> Any:
    return 1 - keras.metrics.binary_accuracy(targets, probabilities)


def _pixel_error(targets: Any, logits: Any) -> Any:
    return keras.ops.square(targets - keras.ops.sigmoid(logits))


ERROR = Metric("error", _wrong_class)
ONE_HOT_ERROR = Metric("error", _wrong_one_hot)
SIGN_ERROR = Metric("error", _wrong_sign)
PROBABILITY_ERROR = Metric("error", _wrong_probability)
PIXEL_ERROR = Metric("squared error", _pixel_error)
SQUARED_ERROR = Metric(
    "squared error", lambda targets, outputs: keras.ops.square(targets - outputs)
)
