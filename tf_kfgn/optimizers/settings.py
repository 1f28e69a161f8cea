"""The constructor arguments that say how a Gauss-Newton optimizer updates."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tf_kfgn.numerics.checks import POSITIVE, check_choice, check_number, check_period

# The part of a batch that the quadratic model is formed of, the fewest rows of outputs, and the
# fewest examples where each has many rows.
MODEL_FRACTION = 0.25
LEAST_ROWS = 64
LEAST_EXAMPLES = 16

# Where several replicas train: each inverts all blocks; or its share of them, and hands the
# inverses to all, or keeps them.
SHARDINGS = (None, "inversions", "inverses")

# In what factors and inverses may be kept; None for float32, or float64 with such weights. Float16
# would overflow.
CURVATURE_DTYPES = (None, "bfloat16")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Constructor arguments of `GaussNewton`, which describes them.

    Raises:
        ValueError: If an argument is out of its range.
    """

    damping: float | keras.optimizers.schedules.LearningRateSchedule | None
    min_damping: float | None
    damping_decay: float
    damping_period: int | None
    step_size: float | None
    momentum: float | None
    gradient_decay: float
    overshoot: float | None
    model_fraction: float | None
    curvature_decay: float
    factor_period: int
    inverse_period: int | None
    sharding: str | None
    curvature_dtype: str | None

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if self.schedule is None:
            check_number("damping", self.damping, POSITIVE)
        check_number("min_damping", self.min_damping, 0.0)
        check_number("damping_decay", self.damping_decay, POSITIVE, 1.0, optional=False)
        check_period("damping_period", self.damping_period, optional=True)
        check_number("step_size", self.step_size, POSITIVE)
        check_number("momentum", self.momentum, 0.0)
        check_number("gradient_decay", self.gradient_decay, 0.0, 1.0, optional=False)
        check_number("overshoot", self.overshoot, 0.0)
        check_number("model_fraction", self.model_fraction, POSITIVE, 1.0, closed=True)
        check_number("curvature_decay", self.curvature_decay, 0.0, 1.0, optional=False)
        check_period("factor_period", self.factor_period)
        check_period("inverse_period", self.inverse_period, optional=True)
        check_choice("sharding", self.sharding, SHARDINGS)
        check_choice("curvature_dtype", self.curvature_dtype, CURVATURE_DTYPES)

    @property
    def schedule(self) -> keras.optimizers.schedules.LearningRateSchedule | None:
        """What gives τ for each update, or None where it adapts."""
        scheduled = isinstance(self.damping, keras.optimizers.schedules.LearningRateSchedule)
        return self.damping if scheduled else None

    @property
    def chooses_step(self) -> bool:
        """Whether both α and μ minimise the model."""
        return self.step_size is None and self.momentum is None

    def fraction_for_model(self, batch_size: int | None, rows: int = 1) -> float:
        """The part of a batch that the quadratic model is formed of.

        Args:
            batch_size: Examples in the batch, or None if that is not known.
            rows: Rows of outputs for one example, as the positions of a sequence.
        """
        if self.model_fraction is not None or batch_size is None:
            return self.model_fraction or 1.0
        least = max(LEAST_ROWS / (rows * batch_size), LEAST_EXAMPLES / batch_size)
        return min(max(MODEL_FRACTION, least), 1.0)

    @property
    def initial_damping(self) -> float:
        """τ before the first update; 0 if the first batch or a schedule sets it."""
        return 0.0 if self.damping is None or self.schedule is not None else self.damping

    def config(self) -> dict[str, Any]:
        """The arguments, with a schedule in the form in which Keras saves it."""
        arguments = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.schedule is not None:
            arguments["damping"] = keras.saving.serialize_keras_object(self.schedule)
        return arguments
