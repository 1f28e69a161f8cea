"""GaussNewton: the update that KFRA, KFLR and KFAC share.

After Botev, Ritter & Barber (2017), appendix, and Martens & Grosse (2015), section 7:

1. on their periods, new Kronecker factors enter the averages and the damped factors are inverted;
2. the gradient is preconditioned block by block: Δ = -(A ⊗ G, damped)⁻¹ g;
3. (α, μ) minimise the exact Gauss-Newton model of the mini-batch over Δ and the previous step δ₀;
4. the weights move by δ = learning_rate · (α Δ + μ δ₀), unless δ is not finite;
5. on its period, and always after a bad prediction, the damping follows the ratio of actual to
   predicted change, and a step that raised the objective is taken back.

New values come from pure functions and are stored outside of any condition: a mirrored variable
must not be assigned inside one.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.blocks import collection
from tf_kfgn.blocks.collection import Estimates
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.factors import FactorEstimator
from tf_kfgn.factors.sharing import Approximation, Sharing
from tf_kfgn.optimizers import replicas, update
from tf_kfgn.optimizers.accumulation import Accumulated
from tf_kfgn.optimizers.memory import Settings
from tf_kfgn.optimizers.recorded_pass import active_pass, recorded_pass
from tf_kfgn.optimizers.stateful import Stateful
from tf_kfgn.recording.tape import CurvatureTape

# A Cholesky inverse of 4096 rows takes seconds on a CPU, and its state 64 MiB.
MAX_FACTOR_SIZE = 4096


class GaussNewton(Stateful, abc.ABC):
    """Base class of the Kronecker-factored optimizers.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable
            without arguments: a factor for the whole step. Defaults to `1.0`, since the step size
            is already the minimiser of the model.
        damping: Initial τ, in units of the objective's second derivative, or a
            `keras.optimizers.schedules.LearningRateSchedule` that gives τ for each update and
            turns its adaptation off. Defaults to `None`: `INITIAL_DAMPING` times the mean diagonal
            of the output curvature on the first batch, so that scaling the loss changes nothing.
        min_damping: Floor of τ, in the same units. Defaults to `None`: `MIN_DAMPING` times the
            initial τ. Without a floor the exact model overfits the mini-batch: damping and step
            size both run towards zero.
        damping_decay: Factor per update by which τ shrinks after ρ > 3/4, and grows after
            ρ < 1/4. Defaults to `0.95`, after Martens & Grosse (2015).
        damping_period: Updates between two comparisons of actual and predicted change, each of
            which costs one forward pass. As long as ρ < 1/4, and at the start, every update is
            compared. One that raised the objective of its own batch is taken back, unless
            `step_size` or `momentum` is fixed. Defaults to `5`; `None` keeps τ fixed.
        step_size: A fixed α. Defaults to `None`: the minimiser of the exact model.
        momentum: A fixed μ. Defaults to `None`: the minimiser of the exact model.
        curvature_decay: Weight ε of the old averages when new factors come, at most `1 - 1/k` for
            the k-th. Defaults to `0.95`, after Martens & Grosse (2015).
        factor_period: Updates between two estimates of the factors. Defaults to `5`: they cost
            about as much as a gradient, and move slowly.
        inverse_period: Updates between two inversions. Defaults to `20`. During the first
            `inverse_period` updates every new estimate is inverted at once.
        approximation: How positions that share weights enter, `"expand"` or `"reduce"`, or a
            dictionary from names of layers to these. Defaults to `"expand"`. Without shared
            weights both are the same.
        max_factor_size: Rows of a Kronecker factor above which only its diagonal is kept; None
            for no limit. Defaults to `MAX_FACTOR_SIZE`.
        weight_decay: Float. If set, every weight shrinks by `learning_rate * weight_decay` times
            itself before the step (decoupled, in Keras' manner); `exclude_from_weight_decay` names
            exceptions. The decay is no part of the quadratic model, and is not taken back.
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
        **kwargs: Further arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: Any = 1.0,
        damping: float | None = None,
        min_damping: float | None = None,
        damping_decay: float = 0.95,
        damping_period: int | None = 5,
        step_size: float | None = None,
        momentum: float | None = None,
        curvature_decay: float = 0.95,
        factor_period: int = 5,
        inverse_period: int = 20,
        approximation: Approximation = "expand",
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
        **kwargs: Any,
    ) -> None:
        """See the class."""
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
        self._settings = Settings(
            damping=damping,
            min_damping=min_damping,
            damping_decay=damping_decay,
            damping_period=damping_period,
            step_size=step_size,
            momentum=momentum,
            curvature_decay=curvature_decay,
            factor_period=factor_period,
            inverse_period=inverse_period,
            max_factor_size=max_factor_size,
        )
        self._settings.check()
        Sharing(approximation)  # refuses a wrong name
        self.approximation = approximation

    @abc.abstractmethod
    def make_estimator(self) -> FactorEstimator:
        """The estimator of Kronecker factors that gives the optimizer its name."""

    @property
    def seed(self) -> int:
        """Seed of the estimator; the factors of update t are drawn from `(seed, t)`."""
        return 0

    @property
    def settings(self) -> Settings:
        """The constructor arguments beyond those of every Keras optimizer."""
        return self._settings

    @property
    def max_factor_size(self) -> int | None:
        """Rows of a Kronecker factor above which only its diagonal is kept."""
        return self._settings.max_factor_size

    def get_config(self) -> dict[str, Any]:
        """The constructor arguments."""
        schedule = self._settings.schedule
        return {
            **super().get_config(),
            **self._settings._asdict(),
            **(
                {}
                if schedule is None
                else {"damping": keras.saving.serialize_keras_object(schedule)}
            ),
            "approximation": self.approximation,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> GaussNewton:
        """An optimizer with the constructor arguments of `get_config`."""
        config = dict(config)
        if isinstance(config.get("damping"), dict):
            config["damping"] = keras.saving.deserialize_keras_object(
                config["damping"], custom_objects=custom_objects
            )
        return super().from_config(config, custom_objects=custom_objects)

    # One update

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[Any, Any]],
        tape: CurvatureTape | None = None,
        objective: Callable[[], tf.Tensor] | None = None,
        loss: tf.Tensor | None = None,
    ) -> Any:
        """Make one update.

        Args:
            grads_and_vars: Pairs of the objective's gradient and the variable it belongs to.
            tape: The recorded pass that the gradients come from. Without it the step is fixed
                (the last α, or `step_size`; `momentum` if that is fixed) and the curvature old.
            objective: Returns the objective, regularisers included, of the same batch at the
                current weights: `tape.replaying()` repeats dropout masks. Without it the damping
                stays as it is.
            loss: The objective before the step, if it is known. Defaults to a call of `objective`.

        Returns:
            The number of calls so far, a scalar variable.

        Raises:
            ValueError: If no tape is given before any curvature exists.
        """
        with recorded_pass(tape, objective, loss):
            return super().apply_gradients(grads_and_vars)

    def refresh_curvature(self, tape: CurvatureTape) -> None:
        """On their periods, estimate new factors and invert them; every update starts with this.

        It must happen while the weights are those of the recorded pass. Call it where another
        optimizer moves some of them first, and say so: `recorded_pass(..., refreshed=True)`.

        Args:
            tape: The recorded pass.
        """
        settings, layout = self._settings, self._state.layout
        iteration = tf.cast(self.iterations, tf.int64)
        memory = self._state.recall()
        memory = update.with_initial_damping(memory, settings, iteration, tape)
        sums, due = memory.accumulated, update.factors_due(memory, settings, iteration)

        def estimate() -> Estimates:
            return self._estimates(tape)

        if isinstance(sums, Accumulated):
            sums = sums.with_batch(due, estimate)
            memory = update.with_mean_factors(
                memory, sums, settings, iteration, layout, self._is_update_step()
            )
        else:
            memory = update.with_factors(memory, settings, due, layout, estimate)
            memory = update.with_inverses(memory, settings, iteration, layout)
        self._state.remember(memory)

    @property
    def _accumulates(self) -> bool:
        return bool(self.gradient_accumulation_steps)

    def _is_update_step(self) -> tf.Tensor:
        """Whether the weights move with this batch."""
        return (tf.convert_to_tensor(self._iterations) + 1) % self.gradient_accumulation_steps == 0

    def _backend_apply_gradients(self, grads: list[Any], trainable_variables: list[Any]) -> None:
        recorded = active_pass()
        if recorded.tape is not None and not recorded.refreshed:
            self.refresh_curvature(recorded.tape)
        if self.clipnorm or self.global_clipnorm or self.clipvalue or self._accumulates:
            own = list(zip(grads, trainable_variables, strict=True))
            recorded = recorded._replace(gradient=own)
        if self.weight_decay:  # it moves the weights before the step does
            recorded = recorded._replace(loss=None)
        with recorded_pass(*recorded):
            super()._backend_apply_gradients(grads, trainable_variables)

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any
    ) -> None:
        tape, objective, loss, refreshed, own_gradient = active_pass()
        settings, layout = self._settings, self._state.layout
        gradient = self._whole_gradient(zip(grads, trainable_variables, strict=True))
        memory = self._state.recall()
        moved_now = {self._get_variable_index(variable) for variable in trainable_variables}
        iteration = tf.cast(self.iterations, tf.int64)
        if tape is None:
            self._require_curvature()
        proposal = update.propose(
            memory,
            settings,
            layout,
            gradient,
            learning_rate,
            tape,
            None if own_gradient is None else self._whole_gradient(own_gradient),
            moving=[index in moved_now for index in range(len(layout.variables))],
        )

        old = [tf.convert_to_tensor(variable) for variable in layout.variables]
        moved = [w + d for w, d in zip(old, proposal.step, strict=True)]
        finite = taken = proposal.is_finite
        new = update.choose(taken, moved, old)
        if tape is None or objective is None or settings.damping_period is None:
            replicas.store(layout.variables, new)
        else:
            due = taken & update.comparison_due(memory, settings.damping_period, iteration)

            def measured(otherwise: tf.Tensor) -> tf.Tensor:
                dtype = proposal.change.dtype
                return tf.cond(due, lambda: tf.cast(objective(), dtype), lambda: otherwise)

            zero = tf.zeros_like(proposal.change)
            before = measured(zero) if loss is None else tf.cast(loss, zero.dtype)
            replicas.store(layout.variables, new)
            after = measured(before)
            actual = replicas.total(after - before)
            memory = update.with_damping(memory, settings, due, actual, proposal.change)
            own = not (self._accumulates or refreshed)
            taken &= update.acceptable(settings, actual, own_gradient=own) | ~due
            finite &= tf.math.is_finite(actual) | ~due
            replicas.store(layout.variables, update.choose(taken, new, old))
        self._state.remember(update.with_step(memory, settings, proposal, taken, finite))

    def _whole_gradient(self, grads_and_vars: Iterable[tuple[Any, Any]]) -> list[tf.Tensor]:
        """The gradient summed over replicas; zeros where the objective gave none."""
        gradient = [tf.zeros(v.shape, v.dtype) for v in self._state.layout.variables]
        for value, variable in self._all_reduce_sum_gradients(grads_and_vars):
            # With an open batch the gradient of a reshaped product has no static shape.
            whole = tf.ensure_shape(tf.convert_to_tensor(value), variable.shape)
            gradient[self._get_variable_index(variable)] = whole
        return gradient

    def _estimates(self, tape: CurvatureTape) -> Estimates:
        """New estimates for every block, from one recorded pass."""
        layout = self._state.layout
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(self._iterations, tf.int64)])
        found = self.make_estimator().estimate(
            tape, seed, layout.diagonal_variables, layout.matrices
        )
        diagonals = iter(found.diagonals)
        old = collection.estimates(layout.blocks, self._state.recall().blocks)
        estimates, missing = [], []
        for block, average in zip(layout.blocks, old, strict=True):
            new: Any = average  # of a layer that has been frozen since
            if not isinstance(block, KroneckerBlock):
                diagonal = next(diagonals)
                new = (diagonal,) if layout.trains(block) else average
            elif (matrix := layout.matrix_of(block)) in found.factors:
                new = found.factors[matrix]
            elif layout.trains(block):
                missing.append(block.name)
            # A layer may be of a lower precision than the model.
            estimates.append(tuple(tf.cast(n, a.dtype) for n, a in zip(new, average, strict=True)))
        if missing:
            raise ValueError(
                f"The CurvatureTape has not recorded the layers {missing}, whose weights this "
                "optimizer trains. Call the whole model inside the tape."
            )
        return estimates

    def _require_curvature(self) -> None:
        """Refuse a step without a tape as long as no factors exist."""
        with tf.init_scope():
            if int(self._scalar("factor_updates")) > 0:
                return
        raise ValueError(
            f"{type(self).__name__} has no curvature yet, and apply_gradients() was called without "
            "a CurvatureTape. For fit(), call tf_kfgn.enable_curvature(model) before compile(), or "
            "build the model from tf_kfgn.Model or tf_kfgn.Sequential. In a loop of your own, run "
            "the model in `with tf_kfgn.CurvatureTape() as tape:`, call tape.watch_loss(...) and "
            "pass `tape=tape`."
        )
