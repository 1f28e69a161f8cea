"""Model, Sequential and enable/disable: the train step that joins tape and optimizer."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras.src.losses.loss import unscale_loss_for_distribution
from keras.src.models.functional import Functional as KerasFunctional

from tf_kfgn.layers import RECORDING_CLASSES, Recording
from tf_kfgn.layers.parameters import remove_marks
from tf_kfgn.optimizers.gauss_newton import GaussNewton
from tf_kfgn.tape import CurvatureTape, active_tape


class CurvatureTraining:
    """Mixin for Keras models: a `train_step` that hands a recorded pass to the optimizer."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tape = active_tape()
        if tape is not None:
            tape.watch_model(self)
        return super().__call__(*args, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        optimizer = self.optimizer
        if not isinstance(optimizer, GaussNewton):
            return super().train_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with CurvatureTape() as tape:
            outputs = self._outputs(x)
            loss = self._compute_loss(x, y, outputs, sample_weight, training=True)
            tape.watch_loss(self._compile_loss, y, outputs, sample_weight)
        self._loss_tracker.update_state(unscale_loss_for_distribution(loss), sample_weight=tf.shape(tf.nest.flatten(x)[0])[0])
        gradients = tape.gradient(loss, self.trainable_variables)

        def objective() -> tf.Tensor:
            with tape.replaying():
                value = tape.loss_of(self._outputs(x))
            return value + sum(self._aggregate_additional_loss(extra) for extra in self.losses)

        optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True), tape=tape, objective=objective, loss=loss)
        return {**self.compute_metrics(x, y, outputs, sample_weight=sample_weight), **optimizer.progress()}

    def _outputs(self, x: Any) -> Any:
        return self(x, training=True) if self._call_has_training_arg else self(x)


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Model(CurvatureTraining, keras.Model):
    """x"""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Functional(Model, KerasFunctional):
    """x"""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Sequential(CurvatureTraining, keras.Sequential):
    """x"""

def enable_curvature(model, *, strict=False):
    for layer in model._flatten_layers(include_self=False):
        cls = RECORDING_CLASSES.get(type(layer))
        if cls: layer.__class__ = cls; 
        if hasattr(layer, "mark_variables"): layer.mark_variables()
    model.__class__ = {KerasFunctional: Functional, keras.Sequential: Sequential}[type(model)]
    model.train_function = None
    return model
