"""The optimizers that the examples compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras

import tf_kfgn


class Method(NamedTuple):
    """An optimizer, and the learning rates to try; none if it needs no tuning.

    Attributes:
        label: For a reader.
        make: Takes a learning rate, if there are some to try.
        learning_rates: To try.
        needs_curvature: Whether the model must record curvature.
        schedule: Of the learning rate, as `_search` names it.
        varying: Whether an update takes longer the later it is.
        dashed: Whether its line is dashed.
    """

    label: str
    make: Callable[..., keras.optimizers.Optimizer]
    learning_rates: tuple[float, ...] = ()
    needs_curvature: bool = False
    schedule: str = "constant"
    varying: bool = False
    dashed: bool = False

    def make_for(
        self, model: keras.Model, learning_rate: float | None
    ) -> keras.optimizers.Optimizer:
        """The optimizer to compile a model with; lets the model record curvature if needed."""
        if self.needs_curvature:
            tf_kfgn.enable_curvature(model)
        return self.make() if learning_rate is None else self.make(learning_rate)


GAUSS_NEWTON = {
    "kfra": Method("KFRA", tf_kfgn.KFRA, needs_curvature=True),
    "kflr": Method("KFLR", tf_kfgn.KFLR, needs_curvature=True),
    "kfac": Method("KFAC", tf_kfgn.KFAC, needs_curvature=True),
}


def adam(*learning_rates: float) -> Method:
    """Adam, with the learning rates to try."""
    return Method("Adam", keras.optimizers.Adam, learning_rates)


def adamw(*learning_rates: float) -> Method:
    """Adam with decoupled weight decay, with the learning rates to try."""
    return Method("AdamW", keras.optimizers.AdamW, learning_rates)


def muon(*learning_rates: float) -> Method:
    """Muon, with the learning rates to try; Keras has it from 3.11 on.

    A layer named `outputs` is left to AdamW, as Keras' documentation has it.
    """
    return Method(
        "Muon", lambda rate: keras.optimizers.Muon(rate, exclude_layers=["outputs"]), learning_rates
    )


def sgd(label: str, momentum: float, nesterov: bool, *learning_rates: float) -> Method:
    """Stochastic gradient descent, with the learning rates to try."""
    return Method(
        label,
        lambda rate: keras.optimizers.SGD(rate, momentum=momentum, nesterov=nesterov),
        learning_rates,
    )


def available(name: str) -> bool:
    """Whether this version of Keras has what a method needs."""
    return name != "muon" or hasattr(keras.optimizers, "Muon")


def trace_update(model: keras.Model, batch: object) -> None:
    """Make one update, so that its function is compiled, and put every variable back.

    Args:
        model: Compiled.
        batch: A `tf.data.Dataset` of one batch.
    """
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    values = [keras.ops.convert_to_numpy(variable) for variable in variables]
    model.fit(batch, shuffle=False, verbose=0)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
