"""How an optimizer moves all its variables at once, and what it keeps beside them."""

from __future__ import annotations

import contextlib
from typing import Any

import keras

from tf_kfgn._keras.inventory import stands_for


@stands_for(
    "keras.optimizers.Optimizer._backend_apply_gradients",
    "keras.optimizers.Optimizer._backend_update_step",
)
class HookedOptimizer(keras.optimizers.Optimizer):
    """An optimizer that moves all variables in one step; `update_step` is for one variable alone.

    Between the two hooks Keras accumulates and clips the gradients, and decays the weights.
    """

    def while_applying(
        self, gradients: list[Any], variables: list[Any]
    ) -> contextlib.AbstractContextManager[None]:
        """A context that is entered before anything changes, and left after the whole update.

        Args:
            gradients: Gradients of this batch, unscaled, one for each variable.
            variables: The variables that have a gradient.
        """
        return contextlib.nullcontext()

    def move_variables(
        self, gradients: list[Any], variables: list[Any], learning_rate: Any
    ) -> None:
        """Move the variables; must be overridden.

        Args:
            gradients: One for each variable, as Keras would follow them: averaged over the
                batches of an update, clipped, and those of this replica alone.
            variables: The variables that have a gradient.
            learning_rate: A scalar.
        """
        raise NotImplementedError

    def _backend_apply_gradients(self, grads: list[Any], trainable_variables: list[Any]) -> None:
        with self.while_applying(grads, trainable_variables):
            super()._backend_apply_gradients(grads, trainable_variables)

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any
    ) -> None:
        self.move_variables(grads, trainable_variables, learning_rate)


@stands_for("keras.optimizers.Optimizer._get_variable_index")
def index_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Position among the variables an optimizer was built with, whichever replica's it is."""
    return optimizer._get_variable_index(variable)


@stands_for("keras.optimizers.Optimizer._iterations")
def number_of_calls(optimizer: keras.optimizers.Optimizer) -> Any:
    """The variable that counts calls of `apply`; `iterations` counts updates of several calls."""
    return optimizer._iterations


@stands_for("keras.optimizers.Optimizer._model_variables_moving_average")
def averages_of_weights(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """The variables in which `use_ema` averages the weights, which `variables` has among others."""
    return list(getattr(optimizer, "_model_variables_moving_average", None) or [])


@stands_for("keras.optimizers.Optimizer._accumulated_gradients")
def accumulated_gradients(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """The variables in which `gradient_accumulation_steps` sums gradients."""
    return list(getattr(optimizer, "_accumulated_gradients", None) or [])
