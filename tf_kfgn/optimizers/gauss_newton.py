"""GaussNewton: the Keras optimizer that KFRA, KFLR and KFAC share; `update` is what it does."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn import replicas
from tf_kfgn._keras.optimizers import index_of, number_of_calls
from tf_kfgn.blocks.collection import Estimates
from tf_kfgn.factors import FactorEstimator
from tf_kfgn.factors.sharing import DEFAULT, Approximation
from tf_kfgn.optimizers import update
from tf_kfgn.optimizers.active_pass import PASS, RecordedPass, active_pass
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.curvature import new_estimates
from tf_kfgn.optimizers.incomplete_pass import IncompletePass
from tf_kfgn.optimizers.inherited import check_inherited
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.optimizers.stateful import Stateful
from tf_kfgn.recording.tape import CurvatureTape

# A Cholesky inverse of 4096 rows takes seconds on a CPU, and its state 64 MiB.
MAX_FACTOR_SIZE = 4096


class GaussNewton(Stateful, abc.ABC):
    """Base class of the Kronecker-factored optimizers.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable
            without arguments: a factor for the whole step. Defaults to `1.0`, since the step size
            is already the minimiser of the model. Above 1 a step that the model chose goes to at
            most 1.5 times that minimiser.
        damping: Initial τ, in units of the objective's second derivative, or a
            `keras.optimizers.schedules.LearningRateSchedule` that gives τ for each update and
            turns its adaptation off. Defaults to `None`: 0.04 times the mean diagonal of the output
            curvature on the first batch, so that scaling the loss changes nothing.
        min_damping: Floor of τ, in the same units. Defaults to `None`: a tenth of the initial τ.
            Without a floor the exact model overfits the mini-batch: damping and step size both
            run towards zero.
        damping_decay: Factor per update by which τ shrinks after ρ > 3/4, and grows after
            ρ < 1/4. Defaults to `0.95`, after Martens & Grosse (2015).
        damping_period: Updates between two comparisons of actual and predicted change, each of
            which costs one forward pass. As long as ρ < 1/4, in the first ten updates, and where
            the model curves four times as much along the step as usual, every update is compared.
            One that raised the objective of its own batch, against the prediction, is taken back,
            unless `step_size` or `momentum` is fixed; so is the step before, if the next batch has
            more than twice the usual objective, and less than half of it without that step.
            Defaults to `5`; `None` keeps τ fixed, and turns all of this off.
        step_size: A fixed α. Defaults to `None`: the minimiser of the exact model. Where both are
            chosen by the model, the step is shortened until the fall that the model predicts to
            first order is at most half of the objective.
        momentum: A fixed μ. Defaults to `None`: the minimiser of the exact model, between -1 and 1.
        gradient_decay: Largest β, by which batches that disagree are averaged:
            `β = min(1 - 1/R, gradient_decay)`, where R (`noise_ratio`) says how much more a step
            curves on its own batch than on the next. β is the weight of the earlier gradients in
            the one that is preconditioned, and the part of each step that is held back and comes
            in as an average (of steps that the model chose: not with a fixed `step_size` or
            `momentum`). Defaults to `0.9`; `0` averages nothing, which saves two copies of the
            weights, and a third of those of wide dense layers.
        overshoot: How far beyond the minimum along its line a step may end on the next batch: the
            slope there, in units of the curvature, that shortens the steps to come (`trust` is the
            largest share of them that is taken at once). At 0 it ends in that minimum, at 1/2 as
            high as it began. Defaults to `0.4`; `None` shortens nothing. Not used with a fixed
            `step_size` or `momentum`.
        model_fraction: Part of the batch whose curvature (α, μ) come from, its first examples. The
            gradient is that of the whole batch, and so are the factors. Defaults to `None`: `0.25`,
            but 64 rows of outputs at least (16 examples, where each has many), if `fit` is given
            arrays or batches of a fixed size (`drop_remainder=True`); all of the batch otherwise,
            or where the model takes no part of one. Less than `1` costs a forward pass of the
            part, and saves more.
        curvature_decay: Largest weight ε of the old averages when new factors come:
            `ε = min(1 - 1/k, 1 - 1/R, curvature_decay)` for the k-th, since old factors are out of
            date, and worth having only against noise. Defaults to `0.95`, after Martens & Grosse
            (2015).
        factor_period: Updates between two estimates of the factors. Defaults to `5`: they cost
            about as much as a gradient, and move slowly.
        inverse_period: Updates between two inversions of a block. Defaults to `None`: each
            estimate is inverted, where that costs little beside an update, and every fourth one
            (a period of `20`) where it takes long. Updates that estimate factors leave the
            inversions to the next one; those that take long are made in turns, a share of the
            blocks by each update. During the first `inverse_period` updates every new estimate is
            inverted at once.
        approximation: The weight-sharing approximation: how positions that share weights enter,
            `"correlated"`, `"expand"` or `"reduce"`, or a dictionary from names of layers to
            these. Defaults to `"correlated"`, which takes cotangents of different positions for as
            correlated as they are; `"expand"` and `"reduce"` are its ends. Without shared weights
            all are the same.
        max_factor_size: Rows of a Kronecker factor above which only its diagonal is kept; None
            for no limit. Defaults to `4096`.
        weight_decay: Float. If set, every weight shrinks by `learning_rate * weight_decay` times
            itself before the step (decoupled, in Keras' manner); `exclude_from_weight_decay` names
            exceptions. The decay is not part of the quadratic model, and is not taken back.
        clipnorm: Float. If set, the gradient of each weight is clipped to this norm before it is
            preconditioned, and (α, μ) minimise the model with the clipped gradient: where all of
            it is scaled down alike, the step gets shorter by the same factor. ρ compares with the
            change that the batch's own gradient predicts.
        clipvalue: Float. As `clipnorm`, for single elements.
        global_clipnorm: Float. As `clipnorm`, for the gradient of all weights together.
        use_ema: Whether to keep an exponential moving average of the weights.
        ema_momentum: Decay of that average. Defaults to `0.99`.
        ema_overwrite_frequency: Updates after which the average overwrites the weights, or None.
        loss_scale_factor: Factor by which `scale_loss` multiplies the loss; the gradients are
            divided by it. The curvature is that of the unscaled loss.
        gradient_accumulation_steps: Batches whose gradients and factors are averaged for one
            update. (α, μ) come from the averaged gradient and the curvature of the last batch
            along the two directions, and ρ is measured on the last batch, with its own gradient;
            a step is only taken back if it is not finite. Periods count updates.
        name: Name of the optimizer.
        sharding: Who inverts where several replicas of a `tf.distribute` strategy train. Defaults
            to `"inversions"`: each inverts its share of the blocks, the dearest given away first,
            and gets the other inverses from the others. `"inverses"`: each keeps those of its share
            for itself and preconditions with them, which takes the least memory, and sends a step
            in every update; a file then has no inverses, and the first update after it makes them
            anew. `None`: each inverts all.
        communication_dtype: The type in which factors travel between replicas, `"bfloat16"` or
            `"float32"`. Defaults to `None`: their own.
        curvature_dtype: The type in which Kronecker factors and their inverses are kept:
            `"bfloat16"` takes half of the memory, in files as much as before. What they are
            computed from is rounded to it once in each estimate; averages, inverses and steps are
            computed in float32. Defaults to `None`: float32, or float64 for such weights.
        **kwargs: Arguments of the estimator of factors alone, and further ones of
            `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: Any = 1.0,
        damping: float | keras.optimizers.schedules.LearningRateSchedule | None = None,
        min_damping: float | None = None,
        damping_decay: float = 0.95,
        damping_period: int | None = 5,
        step_size: float | None = None,
        momentum: float | None = None,
        gradient_decay: float = 0.9,
        overshoot: float | None = 0.4,
        model_fraction: float | None = None,
        curvature_decay: float = 0.95,
        factor_period: int = 5,
        inverse_period: int | None = None,
        approximation: Approximation = DEFAULT,
        max_factor_size: int | None = MAX_FACTOR_SIZE,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        sharding: str | None = "inversions",
        communication_dtype: str | None = None,
        curvature_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the arguments, which the class describes."""
        check_inherited(
            learning_rate,
            use_ema,
            ema_momentum,
            ema_overwrite_frequency,
            gradient_accumulation_steps,
            loss_scale_factor,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
        )
        own = {field.name for field in dataclasses.fields(self.estimator_class)} & set(kwargs)
        estimator = self.estimator_class(
            approximation=approximation,
            max_factor_size=max_factor_size,
            communication_dtype=communication_dtype,
            **{argument: kwargs.pop(argument) for argument in own},
        )
        super().__init__(
            learning_rate=learning_rate,
            name=name,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            **kwargs,
        )
        self._incomplete_pass = IncompletePass(type(self).__name__)
        self.estimator = estimator
        self.settings = Settings(
            damping=damping,
            min_damping=min_damping,
            damping_decay=damping_decay,
            damping_period=damping_period,
            step_size=step_size,
            momentum=momentum,
            gradient_decay=gradient_decay,
            overshoot=overshoot,
            model_fraction=model_fraction,
            curvature_decay=curvature_decay,
            factor_period=factor_period,
            inverse_period=inverse_period,
            sharding=sharding,
            curvature_dtype=curvature_dtype,
        )

    @property
    @abc.abstractmethod
    def estimator_class(self) -> type[FactorEstimator]:
        """The estimator of Kronecker factors that gives the optimizer its name."""

    @property
    def approximation(self) -> Approximation:
        """How positions that share weights enter."""
        return self.estimator.approximation

    @property
    def max_factor_size(self) -> int | None:
        """Rows of a Kronecker factor above which only its diagonal is kept."""
        return self.estimator.max_factor_size

    @property
    def communication_dtype(self) -> str | None:
        """The type in which factors travel between replicas; None for their own."""
        return self.estimator.communication_dtype

    def fraction_for_curvature(self, batch_size: int | None, rows: int = 1) -> float:
        """The part of a batch whose curvature the step takes.

        Args:
            batch_size: Examples in the batch, or None if that is not known.
            rows: Rows of outputs for one example, as the positions of a sequence.
        """
        return self.settings.fraction_for_model(batch_size, rows)

    @property
    def seed(self) -> int:
        """Seed of the estimator; the factors of update t are drawn from `(seed, t)`."""
        return self.estimator.seed

    @override
    def get_config(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {**super().get_config(), **self.settings.config(), **self.estimator.config()}

    @classmethod
    @override
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> GaussNewton:
        """An optimizer with the constructor arguments of `get_config`.

        The whole configuration of one that neither averaged nor shortened steps, as until version
        0.1.0, makes one that does neither.
        """
        config = dict(config)
        if config.keys() >= {"momentum", "curvature_decay", "factor_period", "inverse_period"}:
            config.setdefault("gradient_decay", 0.0)
            config.setdefault("overshoot", None)
            config.setdefault("model_fraction", 1.0)
        if isinstance(config.get("damping"), dict):
            config["damping"] = keras.saving.deserialize_keras_object(
                config["damping"], custom_objects=custom_objects
            )
        return super().from_config(config, custom_objects=custom_objects)

    # One update

    @override
    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Sequence[Any] | None = None,
        *,
        tape: CurvatureTape | None = None,
        objective: Callable[[], tf.Tensor] | None = None,
        loss: tf.Tensor | None = None,
    ) -> None:
        """Make one update.

        Args:
            grads: The objective's gradient for each variable.
            trainable_variables: The variables. Defaults to those the optimizer was built with.
            tape: The recorded pass that the gradients come from. Without it (and outside of
                `recorded_pass`) the step is fixed (the last α, or `step_size`; `momentum` if that
                is fixed) and the curvature old.
            objective: Returns the objective, regularisers included, of the same batch at the
                current weights: `tape.replaying()` repeats dropout masks. Without it the damping
                stays as it is.
            loss: The objective before the step, if it is known. Defaults to a call of `objective`.

        Raises:
            ValueError: If no tape is given before any curvature exists.
        """
        if tape is None and objective is None and loss is None:
            recorded = active_pass()  # what was given to an optimizer around this one
        else:
            recorded = RecordedPass(tape, objective, loss)
        self.loading_is_over()
        with PASS.using(recorded), recorded.on_its_replica():
            super().apply(grads, trainable_variables)

    @override
    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[Any, Any]],
        tape: CurvatureTape | None = None,
        objective: Callable[[], tf.Tensor] | None = None,
        loss: tf.Tensor | None = None,
    ) -> Any:
        """Make one update: `apply`, with gradients and variables in pairs.

        Args:
            grads_and_vars: Pairs of the objective's gradient and the variable it belongs to.
            tape: As for `apply`.
            objective: As for `apply`.
            loss: As for `apply`.

        Returns:
            The number of calls so far, a scalar variable.

        Raises:
            ValueError: If no tape is given before any curvature exists.
        """
        gradients, variables = zip(*grads_and_vars, strict=True)
        self.apply(gradients, variables, tape=tape, objective=objective, loss=loss)
        return number_of_calls(self)

    def refresh_curvature(self, tape: CurvatureTape) -> None:
        """On their periods, estimate new factors and invert them; every update starts with this.

        It must happen while the weights are those of the recorded pass. Call it where another
        optimizer moves some of them first, and say so: `recorded_pass(..., refreshed=True)`.

        Args:
            tape: The recorded pass.
        """
        memory, calls = self.memory.read(), number_of_calls(self)

        def estimate() -> Estimates:
            seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(calls, tf.int64)])
            return new_estimates(self.estimator, self.layout, memory.blocks, tape, seed)

        def is_last_batch() -> tf.Tensor:
            return (tf.convert_to_tensor(calls) + 1) % self.gradient_accumulation_steps == 0

        iteration = tf.cast(self.iterations, tf.int64)
        refreshed = update.refresh(
            self.settings, self.layout, memory, tape, estimate, iteration, is_last_batch
        )
        self.memory.write(refreshed, memory)

    @override
    @contextlib.contextmanager
    def while_applying(self, gradients: list[Any], variables: list[Any]) -> Iterator[None]:
        """Refresh the curvature, and keep what Keras changes before the weights move.

        Here and not in `apply`, so that an update that Keras refuses changes nothing.
        """
        recorded = PASS.get()
        unchecked = recorded.tape is not None and recorded.objective is None
        if unchecked and self.settings.damping_period is not None:
            self._incomplete_pass.without_objective()
        if recorded.tape is not None and not recorded.refreshed:
            self.refresh_curvature(recorded.tape)
        clips = self.clipnorm or self.global_clipnorm or self.clipvalue
        if clips or self.gradient_accumulation_steps:
            own = list(zip(gradients, variables, strict=True))
            recorded = recorded._replace(gradient=own)
        if self.weight_decay:  # it moves the weights before the step does
            recorded = recorded._replace(loss=None)
        with PASS.using(recorded):
            yield

    @override
    def move_variables(
        self, gradients: list[Any], variables: list[Any], learning_rate: Any
    ) -> None:
        """Make the step that `update.move` describes."""
        recorded = PASS.get()
        gradient = self._whole_gradient(zip(gradients, variables, strict=True))
        if recorded.tape is None:
            self.require_curvature()
            self._incomplete_pass.without_tape()
        moving = {index_of(self, variable) for variable in variables}
        own = recorded.gradient
        self.move(
            Batch(
                gradient=gradient,
                learning_rate=learning_rate,
                iteration=tf.cast(self.iterations, tf.int64),
                moving=[index in moving for index in range(len(self.layout.variables))],
                tape=recorded.tape,
                objective=recorded.objective,
                loss=recorded.loss,
                own_gradient=None if own is None else self._whole_gradient(own),
                alone=not (self.gradient_accumulation_steps or recorded.refreshed),
                curvature_tape=recorded.curvature_tape,
            )
        )

    def move(self, batch: Batch) -> None:
        """Move the weights, once the curvature is refreshed, and remember how that went.

        Args:
            batch: What the batch brings.
        """
        memory = self.memory.read()
        self.memory.write(update.move(self.settings, self.layout, memory, batch), memory)

    def _whole_gradient(self, grads_and_vars: Iterable[tuple[Any, Any]]) -> list[tf.Tensor]:
        """The gradient summed over replicas; zeros where the objective gave none."""
        gradient = [tf.zeros(v.shape, v.dtype) for v in self.layout.variables]
        pairs = list(grads_and_vars)
        # Keras' own sum would keep the graph alive for ever, even with one replica: the reduction
        # of TensorFlow enters a gradient of its own into a global registry.
        sums = replicas.total([tf.convert_to_tensor(value) for value, _ in pairs])
        for value, (_, variable) in zip(sums, pairs, strict=True):
            # With an open batch the gradient of a reshaped product has no static shape.
            gradient[index_of(self, variable)] = tf.ensure_shape(value, variable.shape)
        return gradient
