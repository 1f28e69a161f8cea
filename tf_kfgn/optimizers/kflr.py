"""KFLR: factors from an exact low-rank root of the output curvature."""

from __future__ import annotations

from typing import Any

import keras

from tf_kfgn.factors import KFLREstimator
from tf_kfgn.factors.kflr import MEMORY_LIMIT
from tf_kfgn.factors.sharing import DEFAULT, Approximation
from tf_kfgn.optimizers.gauss_newton import MAX_FACTOR_SIZE, GaussNewton


@keras.saving.register_keras_serializable(package="tf_kfgn")
class KFLR(GaussNewton):
    """Optimizer with Kronecker-factored low-rank approximation of the Gauss-Newton matrix.

    Each estimate of the factors costs one backward pass for each output of the model, so it suits
    models with few outputs; with more, `num_columns` bounds the cost. No target is sampled; random
    signs of the examples keep the columns of a batch apart. Works on any graph of layers.

    Takes the arguments of `GaussNewton`, which describes them, and some of its own.

    Args:
        num_columns: Backward passes for each estimate: that many random orthonormal combinations
            of the outputs, drawn anew each time, which make the factors right on average. Between
            KFAC, which draws for each example on its own, and exact KFLR. Defaults to `None`: all
            outputs.
        memory_limit: Size in MiB that the cotangents of columns going backwards side by side may
            take. Defaults to `256`.
        seed: An integer that the combinations are drawn from. Defaults to `0`.

    Reference:
        Botev, Ritter & Barber, "Practical Gauss-Newton Optimisation for Deep Learning", ICML 2017,
        section 3.4.
    """

    estimator: KFLREstimator
    estimator_class = KFLREstimator

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
        num_columns: int | None = None,
        memory_limit: float = MEMORY_LIMIT,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        """Take the arguments, which the class describes."""
        super().__init__(
            learning_rate=learning_rate,
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
            approximation=approximation,
            max_factor_size=max_factor_size,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            sharding=sharding,
            communication_dtype=communication_dtype,
            curvature_dtype=curvature_dtype,
            num_columns=num_columns,
            memory_limit=memory_limit,
            seed=seed,
            **kwargs,
        )

    @property
    def num_columns(self) -> int | None:
        """Backward passes for each estimate of the factors; None for one an output."""
        return self.estimator.num_columns

    @property
    def memory_limit(self) -> float:
        """Size in MiB that the cotangents of columns going backwards side by side may take."""
        return self.estimator.memory_limit
