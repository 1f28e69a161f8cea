"""Model and Sequential: the train step that joins tape and optimizer."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

# Keras' functional model has no public class.
from keras.src.models.functional import Functional as KerasFunctional
from keras.src.models.model import functional_init_arguments

from tf_kfgn.layers.parts import start_recording
from tf_kfgn.layers.recording import RecordingCasts
from tf_kfgn.optimizers import gauss_newton_of, recorded_pass
from tf_kfgn.optimizers.failure_log import warnings_of
from tf_kfgn.optimizers.wrapping import build_once, chooses, gauss_newtons_in
from tf_kfgn.recording.active import active_tape
from tf_kfgn.recording.tape import CurvatureTape

if TYPE_CHECKING:
    from keras import Model as _Mixin
else:
    _Mixin = object


class CurvatureTraining(RecordingCasts, _Mixin):
    """Mixin for Keras models: a `train_step` that hands the recorded pass to the optimizer."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model; an active tape learns which model it records."""
        tape = active_tape()
        if tape is not None:
            tape.watch_model(self)
        return super().__call__(*args, **kwargs)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        """What TensorFlow saves along with the model; a SavedModel needs no optimizer."""
        children = super()._trackable_children(save_type, **kwargs)
        if save_type == "savedmodel":
            children.pop("optimizer", None)
        return children

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a loaded model, whose optimizer needs the marks of all its variables."""
        start_recording(self).pop_all()
        super().compile_from_config(config)

    @functools.wraps(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train as Keras does; a warning tells of updates that could not be made."""
        with warnings_of(getattr(self, "optimizer", None)):
            return super().fit(*args, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Build the optimizer first: a function that creates variables would be traced twice."""
        optimizer: Any = getattr(self, "optimizer", None)
        ours = gauss_newton_of(optimizer) is not None or chooses(optimizer)
        if ours and self.built:
            with self.distribute_strategy.scope():
                build_once(optimizer, self.trainable_variables)
        return super().make_train_function(force)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update with curvature; with any other optimizer, the step of Keras.

        Args:
            data: What `fit` passes on: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The loss, the metrics, `damping` and `step_size`.
        """
        optimizer, several = self.optimizer, chooses(self.optimizer)
        gauss_newton = gauss_newton_of(optimizer)
        if gauss_newton is None:
            return super().train_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        with CurvatureTape() as tape:
            outputs = self._training_outputs(x)
            loss = self._compute_loss(x, y, outputs, sample_weight, training=True)
            tape.watch_loss(self._compile_loss, y, outputs, sample_weight)
            scaled_loss = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_variables)

        def objective() -> tf.Tensor:
            with tape.replaying():
                outputs = self._training_outputs(x)
            if type(self).compute_loss is not keras.Model.compute_loss:
                return self._compute_loss(x, y, outputs, sample_weight, training=True)
            # Keras' own would update the metrics that follow the loss of each output.
            extra = sum(self._aggregate_additional_loss(value) for value in self.losses)
            return tape.loss_of(outputs) + extra

        if several:  # another one may move weights first
            build_once(optimizer, self.trainable_variables)
            for one in gauss_newtons_in(optimizer):
                if one.built:  # it was given some variables
                    one.refresh_curvature(tape)
        with recorded_pass(tape, objective, None if several else loss, refreshed=several):
            optimizer.apply(gradients, self.trainable_variables)
        self._update_loss_tracker(x, loss)
        metrics = self.compute_metrics(x, y, outputs, sample_weight=sample_weight)
        return {**metrics, **gauss_newton.progress()}

    def _training_outputs(self, x: Any) -> Any:
        return self(x, training=True) if self._call_has_training_arg else self(x)

    def _update_loss_tracker(self, x: Any, loss: tf.Tensor) -> None:
        """Let the progress bar show the mean loss over examples, as Keras' own step does."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        examples = tf.shape(tf.nest.flatten(x)[0])[0]
        self._loss_tracker.update_state(loss * replicas, sample_weight=examples)


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Model(CurvatureTraining, keras.Model):
    """`keras.Model` that trains with curvature: functional, or to be subclassed.

    `Model(inputs, outputs)` makes a functional model. Its layers must be recording layers: those
    of `tf_kfgn.layers`, or stock ones after `enable_curvature(model)`.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make a `Functional` when called with inputs and outputs, as Keras does."""
        if cls is Model and functional_init_arguments(args, kwargs):
            cls = Functional
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of `keras.Model`."""
        if functional_init_arguments(args, kwargs):
            _become_functional(type(self))
            KerasFunctional.__init__(self, *args, **kwargs)
        else:
            super().__init__(*args, **kwargs)


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Functional(Model, KerasFunctional):
    """What `Model(inputs, outputs)` makes."""

    __init__ = KerasFunctional.__init__


def _become_functional(cls: type) -> None:
    """Put `Functional` in the place of `Model` among the bases of a subclass of the user's.

    Keras would do the same to `Model` itself, for all who subclass it.
    """
    if not issubclass(cls, Model) or issubclass(cls, Functional):
        return
    for base in cls.__bases__:
        if base is not Model:
            _become_functional(base)
    cls.__bases__ = tuple(Functional if base is Model else base for base in cls.__bases__)


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Sequential(CurvatureTraining, keras.Sequential):
    """`keras.Sequential` that trains with curvature.

    Its layers must be recording layers: those of `tf_kfgn.layers`, or stock ones after
    `enable_curvature(model)`.
    """
