"""KFAC: factors from sampled gradients."""

from __future__ import annotations

import random
from typing import Any

import keras

from tf_kfgn.factors import KFACEstimator
from tf_kfgn.factors.sharing import DEFAULT, Approximation
from tf_kfgn.optimizers.gauss_newton import MAX_FACTOR_SIZE, GaussNewton


@keras.saving.register_keras_serializable(package="tf_kfgn")
class KFAC(GaussNewton):
    """Optimizer with Kronecker-factored approximate curvature, from sampled gradients.

    Each estimate of the factors costs `num_samples` backward passes. Works on any graph of layers.

    Takes the arguments of `GaussNewton`, which describes them, and some of its own.

    Args:
        num_samples: Cotangents drawn for each example. Defaults to `1`, after the paper.
        seed: An integer, or None for one drawn from Python's generator, which
            `keras.utils.set_random_seed` seeds. The factors of update t depend on `(seed, t)`
            alone, so a resumed run draws what the whole run would have drawn.

    Raises:
        ValueError: If `num_samples` or `seed` is not an integer, or another argument is out of
            its range.

    Reference:
        Martens & Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate
        Curvature", ICML 2015.
    """

    estimator: KFACEstimator
    estimator_class = KFACEstimator

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
        num_samples: int = 1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the arguments, which the class describes."""
        if seed is None:
            seed = random.randint(0, 2**31 - 1)
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
            num_samples=num_samples,
            seed=seed,
            **kwargs,
        )

    @property
    def num_samples(self) -> int:
        """Cotangents drawn for each example."""
        return self.estimator.num_samples
