"""Model and Sequential: the train step that joins tape and optimizer."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tf_kfgn._keras.models import (
    Functional as KerasFunctional,
    WithoutOptimizerInSavedModel,
    additional_losses,
    compiled_loss,
    computed_loss,
    track_loss,
)
from tf_kfgn.layers.casting import RecordsCasts
from tf_kfgn.layers.parts import start_recording
from tf_kfgn.numerics.batch_sizes import batch_sizes_of_fit
from tf_kfgn.numerics.structures import first_tensor
from tf_kfgn.optimizers import gauss_newton_of
from tf_kfgn.optimizers.failure_log import logging_failures
from tf_kfgn.optimizers.wrapping import build_once, delegates_to_several, make_update
from tf_kfgn.recording.active import active_tape
from tf_kfgn.recording.part import (
    batch_size_of,
    can_be_divided,
    first_examples,
    rows_of_an_example,
)
from tf_kfgn.recording.replay import SEEDS, generators_of
from tf_kfgn.recording.tape import CurvatureTape
from tf_kfgn.replicas.limits import check_fit
from tf_kfgn.swapping.swap import Role

if TYPE_CHECKING:
    from keras import Model as _Mixin
else:
    _Mixin = object


class CurvatureTraining(WithoutOptimizerInSavedModel, RecordsCasts, _Mixin):
    """Mixin for Keras models: a `train_step` that hands the recorded pass to the optimizer."""

    _size_of_batches: int | None = None  # while `fit` makes them

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model; an active tape learns which model it records."""
        tape = active_tape()
        if tape is not None:
            tape.watch_model(self)
            for generator in generators_of(self):
                SEEDS.swap(generator)
        return super().__call__(*args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a loaded model, whose optimizer needs the marks of all its variables."""
        start_recording(self).pop_all()
        super().compile_from_config(config)

    @functools.wraps(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train as Keras does; a warning tells of updates that could not be made."""
        given = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs).arguments
        x, batch_size = given.get("x"), given.get("batch_size")
        optimizer: Any = getattr(self, "optimizer", None)
        ours = gauss_newton_of(optimizer) or optimizer
        check_fit(
            self.distribute_strategy.num_replicas_in_sync,
            x,
            batch_size,
            self.steps_per_execution,
            getattr(ours, "gradient_accumulation_steps", None),
        )
        with logging_failures(optimizer):
            self._size_of_batches, _ = batch_sizes_of_fit(x, batch_size)
            try:
                return super().fit(*args, **kwargs)
            finally:
                self.__dict__.pop("_size_of_batches", None)  # None is not stored

    def make_train_function(self, force: bool = False) -> Any:
        """Build the optimizer first: a function that creates variables would be traced twice."""
        optimizer: Any = getattr(self, "optimizer", None)
        ours = gauss_newton_of(optimizer) is not None or delegates_to_several(optimizer)
        if ours and self.built and self.trainable_variables:
            with self.distribute_strategy.scope():
                build_once(optimizer, self.trainable_variables)
        return super().make_train_function(force)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update with curvature; Keras' own with any other optimizer, or nothing to train.

        Args:
            data: What `fit` passes on: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The loss, the metrics, `damping` and `step_size`.
        """
        optimizer = self.optimizer
        gauss_newton = gauss_newton_of(optimizer)
        if gauss_newton is None or (self.built and not self.trainable_variables):
            return keras.Model.train_step(self, data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        with CurvatureTape() as tape:
            outputs = _training_outputs(self, x)
            loss = computed_loss(self, x, y, outputs, sample_weight)
            _watch_compiled_loss(self, tape, y, outputs, sample_weight)
            scaled_loss = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_variables)

        def objective() -> tf.Tensor:
            with tape.replaying():
                outputs = _training_outputs(self, x)
                if type(self).compute_loss is not keras.Model.compute_loss:
                    return computed_loss(self, x, y, outputs, sample_weight)
                return tape.loss_of(outputs) + additional_losses(self)

        part = None
        fraction = gauss_newton.fraction_for_curvature(
            _batch_size(self, x), rows_of_an_example(outputs)
        )
        if fraction < 1 and can_be_divided(self, data):
            part = _recorded_part(self, tape, data, fraction)
        make_update(optimizer, gradients, self.trainable_variables, tape, objective, loss, part)
        track_loss(self, first_tensor(x), loss)
        metrics = self.compute_metrics(x, y, outputs, sample_weight=sample_weight)
        return {**metrics, **gauss_newton.progress()}


def _training_outputs(model: keras.Model, x: Any) -> Any:
    has_argument = "training" in model.call_signature_parameters
    return model(x, training=True) if has_argument else model(x)


def _batch_size(model: Any, x: Any) -> int | None:
    """Examples in the batches that one replica is given, if that is known before they come."""
    size = batch_size_of(x)
    if size is None and model._size_of_batches is not None:
        size = max(1, model._size_of_batches // tf.distribute.get_strategy().num_replicas_in_sync)
    return size


def _watch_compiled_loss(
    model: Any, tape: CurvatureTape, y: Any, outputs: Any, sample_weight: Any
) -> None:
    loss = compiled_loss(model)
    if loss is None:
        raise ValueError(
            f"Model {model.name!r} was compiled without a loss, so there is no curvature to take: "
            "that of numbers from `add_loss` or from a `compute_loss` of its own is unknown. Pass "
            "compile(loss=...) the part of the objective whose curvature counts, which "
            "`compute_loss` may add to, or watch it in a `train_step` of your own: see the page "
            "'Your own train_step' of the documentation."
        )
    tape.watch_loss(loss, y, outputs, sample_weight)


def _recorded_part(model: Any, tape: CurvatureTape, data: Any, fraction: float) -> CurvatureTape:
    """A recorded pass of the first examples of a batch.

    Args:
        model: The model.
        tape: The recorded pass of the whole batch.
        data: The batch, as `fit` passes it on.
        fraction: The part of its examples.
    """
    first = first_examples(data, fraction)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(first)
    with tape.of_part() as part:
        outputs = _training_outputs(model, x)
        _watch_compiled_loss(model, part, y, outputs, sample_weight)
    return part


class _ModelRole(Role):
    """Models whose `fit` trains with curvature."""

    def make(self, stock: Any, *bases: type) -> type:
        """A subclass that keeps a training loop of the user's own.

        What that calls by `super().train_step()` is the step with curvature.
        """
        if stock.train_step is keras.Model.train_step:
            return super().make(stock, *bases)
        made: Any = super().make(stock, _StepOfModels, *bases)
        made.train_step = stock.train_step
        return made


class _StepOfModels(keras.Model):
    """Stands between a class of the user's and `keras.Model`."""

    train_step = CurvatureTraining.train_step


MODELS = _ModelRole(CurvatureTraining)


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Model(CurvatureTraining, keras.Model):
    """`keras.Model` that trains with curvature: functional, or to be subclassed.

    `Model(inputs, outputs)` makes a functional model. Its layers must be recording layers: those
    of `tf_kfgn.layers`, or stock ones after `enable_curvature(model)`.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make a `Functional` when called with inputs and outputs, as Keras does."""
        if cls is Model and _are_inputs_and_outputs(args, kwargs):
            cls = Functional
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of `keras.Model`."""
        if _are_inputs_and_outputs(args, kwargs):
            _become_functional(type(self))
            KerasFunctional.__init__(self, *args, **kwargs)
        else:
            super().__init__(*args, **kwargs)


@MODELS.register
@keras.saving.register_keras_serializable(package="tf_kfgn")
class Functional(Model, KerasFunctional):
    """What `Model(inputs, outputs)` makes."""

    __init__ = KerasFunctional.__init__


def _are_inputs_and_outputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a constructor's arguments make a functional model."""
    given = len(args)
    return given == 2 or (given == 1 and "outputs" in kwargs) or {"inputs", "outputs"} <= {*kwargs}


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


@MODELS.register
@keras.saving.register_keras_serializable(package="tf_kfgn")
class Sequential(CurvatureTraining, keras.Sequential):
    """`keras.Sequential` that trains with curvature.

    Its layers must be recording layers: those of `tf_kfgn.layers`, or stock ones after
    `enable_curvature(model)`.
    """
