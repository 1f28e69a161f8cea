"""KFRA: one recursion on the batch mean of the output curvature gives every factor."""

from __future__ import annotations

from typing import Any

import keras

from tf_kfgn.factors import KFRAEstimator
from tf_kfgn.factors.kfra import MEMORY_LIMIT
from tf_kfgn.factors.sharing import DEFAULT, Approximation
from tf_kfgn.optimizers.gauss_newton import MAX_FACTOR_SIZE, GaussNewton


@keras.saving.register_keras_serializable(package="tf_kfgn")
class KFRA(GaussNewton):
    """Optimizer with Kronecker-factored recursive approximation of the Gauss-Newton matrix.

    The cost of the factors does not grow with the number of outputs, and nothing but their size is
    sampled. On images and sequences of more than a few hundred features the recursion carries
    averages over pairs of channels alone, at KFAC's cost.

    Takes the arguments of `GaussNewton`, which describes them, and three of its own.

    Args:
        memory_limit: MiB that the recursion may hold at one time: all its averages together. What
            would take more is refused, with a message, before it is allocated. Defaults to `2048`.
        spatial: What the recursion carries of a tensor with positions, as of an image or a
            sequence. `"full"`: the average over all pairs of its features. `"uncorrelated"`: that
            over pairs of channels, as if cotangents were uncorrelated between positions and alike
            at all of them; an operation without a rule for these gets one sampled cotangent for
            each example. Defaults to `"auto"`: the first if no such tensor of the model has more
            than 256 features, else the second. A model without positions has the same factors
            either way.
        rescale: Whether each G is multiplied to have the trace that one sampled cotangent for each
            example gives it, as of KFAC, and positions correlate as much as these do. The recursion
            has the shape of G better than its size. `False` is the paper's recursion alone.
            Defaults to `True`.

    ```python
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse")
    ```

    Reference:
        Botev, Ritter & Barber, "Practical Gauss-Newton Optimisation for Deep Learning", ICML 2017,
        section 3.5.
    """

    estimator: KFRAEstimator
    estimator_class = KFRAEstimator

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
        memory_limit: float = MEMORY_LIMIT,
        spatial: str = "auto",
        rescale: bool = True,
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
            memory_limit=memory_limit,
            spatial=spatial,
            rescale=rescale,
            **kwargs,
        )

    @property
    def memory_limit(self) -> float:
        """MiB that the recursion may hold at one time."""
        return self.estimator.memory_limit

    @property
    def spatial(self) -> str:
        """What the recursion carries of a tensor with positions."""
        return self.estimator.spatial

    @property
    def rescale(self) -> bool:
        """Whether sampled cotangents say how large the factors are."""
        return self.estimator.rescale
