"""What a model holds, and what its `fit` reads."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras.src.models import functional

from tf_kfgn._keras.inventory import PRIVATE_NAMES, stands_for

# What `keras.Model(inputs, outputs)` makes; the class has no public name.
Functional = functional.Functional
PRIVATE_NAMES["models.Functional"] = ("keras.src.models.functional.Functional",)


@stands_for("keras.Sequential._functional", "keras.src.models.functional.Functional._inputs_struct")
def input_structure(model: keras.Model) -> Any:
    """The inputs that a functional or sequential model declares, or None; `inputs` is flat."""
    functional = getattr(model, "_functional", model)  # the one inside a Sequential
    return getattr(functional, "_inputs_struct", None)


@stands_for("keras.Model._compile_loss")
def compiled_loss(model: keras.Model) -> Any:
    """The loss that `compile` made of what it was given; `model.loss` is what it was given."""
    return model._compile_loss


@stands_for("keras.Model._compile_metrics")
def compiled_metrics(model: keras.Model) -> Any:
    """The metrics that `compile` made of what it was given, or None."""
    return model._compile_metrics


@stands_for("keras.Model._compute_loss")
def computed_loss(model: keras.Model, x: Any, y: Any, outputs: Any, sample_weight: Any) -> Any:
    """`compute_loss` in training, which a subclass may have written without that argument."""
    return model._compute_loss(x, y, outputs, sample_weight, training=True)


@stands_for("keras.Model._aggregate_additional_loss")
def additional_losses(model: keras.Model) -> Any:
    """The sum of `model.losses`, scaled for the replicas as in the loss that `fit` reports."""
    return sum(model._aggregate_additional_loss(value) for value in model.losses)


@stands_for("keras.Model._loss_tracker")
def track_loss(model: keras.Model, inputs: tf.Tensor, loss: tf.Tensor) -> None:
    """Let the progress bar show the mean loss over examples, as Keras' own step does."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    examples = tf.shape(inputs)[0]
    model._loss_tracker.update_state(loss * replicas, sample_weight=examples)


@stands_for("keras.Model._initial_epoch")
def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Let the running `fit` start at an epoch; None leaves that to its argument."""
    model._initial_epoch = epoch


@stands_for("keras.Model._trackable_children")
class WithoutOptimizerInSavedModel:
    """Mixin for models: TensorFlow saves no optimizer along with a SavedModel.

    It would need this package to be loaded. `tf.train.Checkpoint` keeps the optimizer.
    """

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        children = super()._trackable_children(save_type, **kwargs)  # type: ignore[misc]
        if save_type == "savedmodel":
            children.pop("optimizer", None)
        return children
