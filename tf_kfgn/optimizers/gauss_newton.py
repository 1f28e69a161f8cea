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
import contextvars
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_kfgn.blocks.collection import Estimates
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.blocks.parameters import Layout
from tf_kfgn.factors import FactorEstimator
from tf_kfgn.factors.sharing import Approximation, Sharing
from tf_kfgn.optimizers import replicas, update
from tf_kfgn.optimizers.checks import POSITIVE, check_number
from tf_kfgn.optimizers.state import Settings, StateVariables
from tf_kfgn.tape import CurvatureTape


class RecordedPass(NamedTuple):
    """What one call of `apply_gradients` knows beyond the gradients."""

    tape: CurvatureTape | None = None
    objective: Callable[[], tf.Tensor] | None = None
    loss: tf.Tensor | None = None


# A Cholesky inverse of 4096 rows takes seconds on a CPU, and its state 64 MiB.
MAX_FACTOR_SIZE = 4096

_NOTHING = RecordedPass()
_recorded_pass: contextvars.ContextVar[RecordedPass] = contextvars.ContextVar(
    "recorded_pass", default=_NOTHING
)


class GaussNewton(keras.optimizers.Optimizer, abc.ABC):
    """Base class of the Kronecker-factored optimizers.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable
            without arguments: a factor for the whole step. Defaults to `1.0`, since the step size
            is already the minimiser of the model.
        damping: Initial τ, in units of the objective's second derivative. Defaults to `None`:
            `INITIAL_DAMPING` times the mean diagonal of the output curvature on the first batch,
            so that scaling the loss changes nothing.
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
        weight_decay: Float. If set, decoupled weight decay is applied before the step.
        clipnorm: Float. If set, the gradient of each weight is clipped to this norm before it is
            preconditioned.
        clipvalue: Float. If set, the gradient is clipped to this value before it is
            preconditioned.
        global_clipnorm: Float. If set, the gradient of all weights is clipped to this norm before
            it is preconditioned.
        use_ema: Whether to keep an exponential moving average of the weights.
        ema_momentum: Decay of that average. Defaults to `0.99`.
        ema_overwrite_frequency: Updates after which the average overwrites the weights, or None.
        loss_scale_factor: Factor by which `scale_loss` multiplies the loss; the gradients are
            divided by it. The curvature is that of the unscaled loss.
        gradient_accumulation_steps: Calls of `apply_gradients` whose gradients are averaged for
            one update. The curvature is that of the last of these batches.
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

    # State

    def build(self, variables: list[Any]) -> None:
        """Create the state, block by block, from the marks that recording layers left.

        Args:
            variables: The trainable variables of the model.

        Raises:
            ValueError: If some variable belongs to no block.
        """
        if self.built:
            return
        super().build(variables)
        self._state = StateVariables(
            self, Layout.of(variables, self._settings.max_factor_size), self._settings.damping
        )

    @property
    def damping(self) -> Any:
        """τ for the next update, a scalar variable; assign a number to change it.

        Raises:
            ValueError: If the optimizer has not been built.
        """
        return self._scalar("damping")

    @damping.setter
    def damping(self, value: float) -> None:
        check_number("damping", value, POSITIVE, optional=False)
        self._scalar("damping").assign(value)

    @property
    def step_size(self) -> Any:
        """α of the last update, a scalar variable."""
        return self._scalar("step_size")

    @property
    def momentum(self) -> Any:
        """μ of the last update, a scalar variable."""
        return self._scalar("momentum")

    @property
    def reduction_ratio(self) -> Any:
        """ρ when it was last measured, a scalar variable."""
        return self._scalar("reduction_ratio")

    @property
    def rejected_steps(self) -> Any:
        """Updates that left the weights as they were, a scalar variable."""
        return self._scalar("rejected_steps")

    @property
    def failed_inversions(self) -> Any:
        """Blocks that kept their last good inverse, summed over updates, a scalar variable."""
        return self._scalar("failed_inversions")

    def _scalar(self, name: str) -> Any:
        if not self.built:
            raise ValueError(
                f"`{name}` exists once the optimizer is built: after the first step of fit(), or "
                "optimizer.build(model.trainable_variables)."
            )
        return getattr(self._state.scalars, name)

    def progress(self) -> dict[str, tf.Tensor]:
        """What a progress bar shows: `damping` and `step_size`."""
        return {name: tf.convert_to_tensor(self._scalar(name)) for name in ("damping", "step_size")}

    def get_config(self) -> dict[str, Any]:
        """The constructor arguments."""
        return {
            **super().get_config(),
            **self._settings._asdict(),
            "approximation": self.approximation,
        }

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
        token = _recorded_pass.set(RecordedPass(tape, objective, loss))
        try:
            return super().apply_gradients(grads_and_vars)
        finally:
            _recorded_pass.reset(token)

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any
    ) -> None:
        tape, objective, loss = _recorded_pass.get()
        settings, layout = self._settings, self._state.layout
        gradient = self._whole_gradient(grads, trainable_variables)
        memory = self._state.recall()
        iteration = tf.cast(self.iterations, tf.int64)
        if tape is None:
            self._require_curvature()
        else:
            memory = update.with_initial_damping(memory, tape)
            memory = update.with_factors(
                memory, settings, iteration, layout, lambda: self._estimates(tape, iteration)
            )
            memory = update.with_inverses(memory, settings, iteration, layout)
        proposal = update.propose(memory, settings, layout, gradient, learning_rate, tape)

        old = [tf.convert_to_tensor(variable) for variable in layout.variables]
        moved = [w + d for w, d in zip(old, proposal.step, strict=True)]
        taken = proposal.usable
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
            factor = settings.damping_decay**settings.damping_period
            memory = update.with_damping(memory, factor, due, actual, proposal.change)
            taken &= update.acceptable(settings, actual) | ~due
            replicas.store(layout.variables, update.choose(taken, new, old))
        self._state.remember(update.with_step(memory, settings, proposal, taken))

    def _whole_gradient(self, grads: list[Any], trainable_variables: list[Any]) -> list[tf.Tensor]:
        """The gradient summed over replicas; zeros where the objective gave none."""
        gradient = [tf.zeros(v.shape, v.dtype) for v in self._state.layout.variables]
        reduced = self._all_reduce_sum_gradients(zip(grads, trainable_variables, strict=True))
        for value, variable in reduced:
            # With an open batch the gradient of a reshaped product has no static shape.
            whole = tf.ensure_shape(tf.convert_to_tensor(value), variable.shape)
            gradient[self._get_variable_index(variable)] = whole
        return gradient

    def _estimates(self, tape: CurvatureTape, iteration: tf.Tensor) -> Estimates:
        """New estimates for every block, from one recorded pass."""
        layout = self._state.layout
        seed = tf.stack([tf.constant(self.seed, tf.int64), iteration])
        found = self.make_estimator().estimate(tape, seed, layout.diagonal_variables)
        diagonals = iter(found.diagonals)
        estimates, missing = [], []
        for block in layout.blocks:
            if not isinstance(block, KroneckerBlock):
                estimates.append((next(diagonals),))
            elif block.matrix in found.factors:
                estimates.append(tuple(found.factors[block.matrix]))
            else:
                missing.append(block.name)
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
