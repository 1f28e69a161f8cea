"""GaussNewton: the optimizer that KFRA, KFLR and KFAC are.

One update, after Botev, Ritter & Barber (2017), appendix, and Martens & Grosse (2015):

1. on their periods, new Kronecker factors enter the averages, and the damped factors are inverted;
2. the gradient is preconditioned block by block: Δ = -(A ⊗ G, damped)⁻¹ g;
3. (α, μ) minimise the exact Gauss-Newton model of the mini-batch over Δ and the previous step;
4. the weights move by `learning_rate * (α Δ + μ δ₀)`, unless something is not finite;
5. on its period, the damping follows the ratio of actual to predicted change.

New values are computed by pure functions and stored at the end, outside of any condition: a
mirrored variable must not be assigned inside one.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_kfgn.blocks import kronecker
from tf_kfgn.blocks.kronecker import KroneckerState
from tf_kfgn.blocks.parameters import find_blocks, l2_coefficient
from tf_kfgn.factors import FactorEstimator
from tf_kfgn.optimizers.damping import adapted, reduction_ratio
from tf_kfgn.optimizers.step_size import minimise, quadratic_model
from tf_kfgn.tape import CurvatureTape


class RecordedPass(NamedTuple):
    """What one call of `apply_gradients` knows beyond the gradients."""

    tape: CurvatureTape | None = None
    objective: Callable[[], tf.Tensor] | None = None
    loss: tf.Tensor | None = None


_recorded_pass: contextvars.ContextVar[RecordedPass] = contextvars.ContextVar(
    "recorded_pass", default=RecordedPass()
)


class GaussNewton(keras.optimizers.Optimizer):
    """Base class of the Kronecker-factored optimizers; see `KFRA` for the arguments."""

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
        approximation: str = "expand",
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
        """Check and keep the settings."""
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
        self._settings = {
            "damping": damping,
            "min_damping": min_damping,
            "damping_decay": damping_decay,
            "damping_period": damping_period,
            "step_size": step_size,
            "momentum": momentum,
            "curvature_decay": curvature_decay,
            "factor_period": factor_period,
            "inverse_period": inverse_period,
            "approximation": approximation,
        }
        self.initial_damping = damping
        self.min_damping = min_damping
        self.damping_decay = damping_decay
        self.damping_period = damping_period
        self.fixed_step_size = step_size
        self.fixed_momentum = momentum
        self.curvature_decay = curvature_decay
        self.factor_period = factor_period
        self.inverse_period = inverse_period
        self.approximation = approximation
        self.estimator = self.make_estimator()

    def make_estimator(self) -> FactorEstimator:
        """The estimator of Kronecker factors that gives the optimizer its name."""
        raise NotImplementedError

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._blocks = find_blocks(variables)
        self._ridges = [l2_coefficient(variable) for variable in variables]
        dtype = variables[0].dtype
        self._curvature = []
        for block in self._blocks:
            for size, kind, init in ((block.rows, "A", "zeros"), (block.columns, "G", "zeros"), (block.rows, "A_inverse", "identity"), (block.columns, "G_inverse", "identity")):
                self._curvature.append(
                    self.add_variable((size, size), init, dtype, "only_first_replica", name=f"{block.matrix.layer}_{kind}")
                )
        self._previous_step = self.add_optimizer_variables(variables, "previous_step")
        def scalar(name, value=0.0, dtype=dtype):
            return self.add_variable((), keras.initializers.Constant(value), dtype, "only_first_replica", name=name)
        self._damping = scalar("damping", self.initial_damping or 0.0)
        self._scale = scalar("curvature_scale", 0.0)
        self._step_size = scalar("step_size")
        self._momentum = scalar("momentum")
        self._reduction_ratio = scalar("reduction_ratio")
        self._factor_updates = scalar("factor_updates", 0, "int64")
        self._rejected_steps = scalar("rejected_steps", 0, "int64")
        self._failed_inversions = scalar("failed_inversions", 0, "int64")

    @property
    def damping(self): return self._damping
    @property
    def step_size(self): return self._step_size
    def progress(self):
        return {"damping": tf.convert_to_tensor(self._damping), "step_size": tf.convert_to_tensor(self._step_size)}

    def apply_gradients(self, grads_and_vars, tape=None, objective=None, loss=None):
        token = _recorded_pass.set(RecordedPass(tape, objective, loss))
        try:
            return super().apply_gradients(grads_and_vars)
        finally:
            _recorded_pass.reset(token)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        tape, objective, loss = _recorded_pass.get()
        pairs = self._all_reduce_sum_gradients(list(zip(grads, trainable_variables)))
        variables = self._trainable_variables
        gradient = [tf.zeros(v.shape, v.dtype) for v in variables]
        for g, v in pairs:
            gradient[self._get_variable_index(v)] = tf.convert_to_tensor(g)
        it = tf.cast(self._iterations.value, tf.int64)
        damping = tf.convert_to_tensor(self._damping)
        scale = tf.convert_to_tensor(self._scale)
        first = it == 0
        hs = tf.add_n([l.mean_diagonal() for l in tape.likelihoods]) / len(tape.likelihoods)
        scale = tf.where(first, tf.cast(hs, scale.dtype), scale)
        if self.initial_damping is None:
            damping = tf.where(first, scale * self.REL_DAMPING, damping)
        # curvature
        updates = tf.convert_to_tensor(self._factor_updates)
        states = self._states()
        due = (it % self.factor_period == 0) | (updates == 0)
        def fresh():
            factors = self.estimator(tape, tf.stack([tf.constant(0, tf.int64), it]))
            by = {self._get_variable_index(l.kernel): f for l, f in factors.items()}
            k = tf.cast(updates + 1, damping.dtype)
            eps = tf.minimum(1 - 1 / k, self.curvature_decay)
            new = [kronecker.average(s, *by[b.indices[0]], eps) for s, b in zip(states, self._blocks)]
            fin = tf.reduce_all([kronecker.is_finite(s.A) & kronecker.is_finite(s.G) for s in new])
            new = [s._replace(A=tf.where(fin, s.A, o.A), G=tf.where(fin, s.G, o.G)) for s, o in zip(new, states)]
            return new, updates + tf.cast(fin, tf.int64)
        states, updates2 = tf.cond(due, fresh, lambda: (states, updates))
        idue = (it % self.inverse_period == 0) | (updates == 0) | ((it < self.inverse_period) & (it % self.factor_period == 0))
        ridges = [damping + tf.cast(r, damping.dtype) for r in self._ridges]
        def inv():
            res = [kronecker.invert(s, ridges[b.indices[0]]) for s, b in zip(states, self._blocks)]
            return [r[0] for r in res], tf.add_n([tf.cast(~r[1], tf.int64) for r in res])
        states, failed = tf.cond(idue, inv, lambda: (states, tf.zeros((), tf.int64)))
        # direction
        direction = [None] * len(variables)
        for s, b in zip(states, self._blocks):
            for i, piece in b.split(-kronecker.precondition(s, b.join(gradient)), variables).items():
                direction[i] = piece
        prev = [tf.convert_to_tensor(p) for p in self._previous_step]
        model = quadratic_model(tape, variables, gradient, (direction, prev), ridges)
        coefficients = minimise(model, self.fixed_step_size, self.fixed_momentum) * tf.cast(learning_rate, damping.dtype)
        alpha, mu = tf.unstack(coefficients)
        step = [alpha * d + mu * p for d, p in zip(direction, prev)]
        ok = tf.reduce_all([kronecker.is_finite(t) for t in step])
        old = [tf.convert_to_tensor(v) for v in variables]
        new = [tf.where(ok, o + s, o) for o, s in zip(old, step)]
        step = [tf.where(ok, s, p) for s, p in zip(step, prev)]
        before = loss
        for v, n in zip(variables, new): v.assign(n)
        for v, n in zip(self._previous_step, step): v.assign(n)
        for v, n in zip(self._curvature, [t for s in states for t in s]): v.assign(n)
        ratio = tf.convert_to_tensor(self._reduction_ratio)
        if objective is not None and self.damping_period:
            ldue = (it + 1) % self.damping_period == 0
            predicted = model.change(coefficients)
            def lm():
                rho = reduction_ratio(tf.cast(objective() - before, predicted.dtype), predicted)
                return adapted(damping, rho, self.damping_decay ** self.damping_period), rho
            damping, ratio = tf.cond(ldue & ok, lm, lambda: (damping, ratio))
        damping = tf.where(failed > 0, damping / self.damping_decay ** 5, damping)
        mind = self.min_damping if self.min_damping is not None else self.REL_MIN * scale
        damping = tf.maximum(damping, mind)
        self._scale.assign(scale); self._damping.assign(damping); self._step_size.assign(tf.where(ok, alpha, self._step_size)); self._momentum.assign(tf.where(ok, mu, self._momentum))
        self._reduction_ratio.assign(ratio); self._factor_updates.assign(updates2)
        self._rejected_steps.assign_add(tf.cast(~ok, tf.int64)); self._failed_inversions.assign_add(failed)

    REL_DAMPING = 1.0
    REL_MIN = 0.01

    def _states(self):
        flat = [tf.convert_to_tensor(v) for v in self._curvature]
        return [KroneckerState(*flat[i : i + 4]) for i in range(0, len(flat), 4)]

    def get_config(self):
        return {**super().get_config(), **self._settings}
