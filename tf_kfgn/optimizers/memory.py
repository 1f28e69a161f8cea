"""What a Gauss-Newton optimizer is told once, and what it remembers from update to update."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_kfgn.blocks.collection import States, estimates
from tf_kfgn.blocks.factor import identity
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.numerics.checks import POSITIVE, check_count, check_number, check_period
from tf_kfgn.optimizers import replicas
from tf_kfgn.optimizers.accumulation import Accumulated


class Settings(NamedTuple):
    """Constructor arguments of `GaussNewton` beyond those of every Keras optimizer; see there."""

    damping: float | keras.optimizers.schedules.LearningRateSchedule | None
    min_damping: float | None
    damping_decay: float
    damping_period: int | None
    step_size: float | None
    momentum: float | None
    curvature_decay: float
    factor_period: int
    inverse_period: int
    max_factor_size: int | None

    @property
    def schedule(self) -> keras.optimizers.schedules.LearningRateSchedule | None:
        """What gives τ for each update, or None where it adapts."""
        scheduled = isinstance(self.damping, keras.optimizers.schedules.LearningRateSchedule)
        return self.damping if scheduled else None

    @property
    def initial_damping(self) -> float:
        """τ before the first update; 0 if the first batch or a schedule sets it."""
        return 0.0 if self.damping is None or self.schedule is not None else self.damping

    def check(self) -> None:
        """Refuse what is out of range.

        Raises:
            ValueError: If an argument is out of its range.
        """
        if self.schedule is None:
            check_number("damping", self.damping, POSITIVE)
        check_number("min_damping", self.min_damping, 0.0)
        check_number("damping_decay", self.damping_decay, POSITIVE, 1.0, optional=False)
        check_period("damping_period", self.damping_period, optional=True)
        check_number("step_size", self.step_size, POSITIVE)
        check_number("momentum", self.momentum, 0.0)
        check_number("curvature_decay", self.curvature_decay, 0.0, 1.0, optional=False)
        check_period("factor_period", self.factor_period)
        check_period("inverse_period", self.inverse_period)
        check_count("max_factor_size", self.max_factor_size, optional=True)


class Scalars(NamedTuple):
    """The scalar state: the variables that hold it, or their values during an update.

    Attributes:
        damping: τ for the next update; 0 until the first batch has set it.
        initial_damping: τ of the first update; 0 until the first batch has set it.
        step_size: α of the last update.
        momentum: μ of the last update.
        reduction_ratio: ρ when it was last measured.
        factor_updates: How often new factors entered the averages.
        inverse_age: Updates since every inverse was renewed without a failure.
        rejected_steps: Updates that left the weights as they were.
        nonfinite_steps: Those among them that were not finite, or led to an objective that was not.
        failed_inversions: Blocks that kept their last good inverse, summed over updates.
    """

    damping: Any
    initial_damping: Any
    step_size: Any
    momentum: Any
    reduction_ratio: Any
    factor_updates: Any
    inverse_age: Any
    rejected_steps: Any
    nonfinite_steps: Any
    failed_inversions: Any


_COUNTERS = {
    "factor_updates",
    "inverse_age",
    "rejected_steps",
    "nonfinite_steps",
    "failed_inversions",
}


class Memory(NamedTuple):
    """Values of the whole state.

    Attributes:
        blocks: One state for each block.
        previous_step: δ₀, one tensor for each variable.
        scalars: The scalars.
        accumulated: Sums over batches; empty where every batch has an update of its own.
    """

    blocks: States
    previous_step: list[tf.Tensor]
    scalars: Scalars
    accumulated: Accumulated | tuple[()] = ()


class StateVariables:
    """The variables that hold the state, in an order that depends on the layout alone.

    Optimizer variables are saved by position. Being no attribute of the optimizer itself, the
    layout is not mistaken by Keras for more of them.

    Attributes:
        layout: The variables of the model and how they are blocked.
        scalars: The scalar variables.
    """

    def __init__(
        self, optimizer: keras.optimizers.Optimizer, layout: Layout, initial_damping: float
    ) -> None:
        """Add the variables to an optimizer.

        Args:
            optimizer: Where they belong.
            layout: Its variables and blocks.
            initial_damping: τ before the first update; 0 if it is not known yet.
        """
        self.layout = layout
        double = any(variable.dtype == "float64" for variable in layout.variables)
        dtype = "float64" if double else "float32"

        def add(name: str, shape: tuple[int, ...], initializer: Any, dtype: str = dtype) -> Any:
            return optimizer.add_variable(
                shape, initializer, dtype, "only_first_replica", name=name
            )

        initializers = {"zeros": "zeros", "ones": "ones", "identity": identity}
        self._blocks = [
            block.state(
                [
                    add(
                        f"{block.name}_{slot.name}".replace("/", "_"),
                        slot.shape,
                        initializers[slot.initial],
                    )
                    for slot in block.slots
                ]
            )
            for block in layout.blocks
        ]
        self._previous_step = optimizer.add_optimizer_variables(layout.variables, "previous_step")

        def constant(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
            return tf.constant(initial_damping, dtype, shape)  # Keras' own rounds to float32

        initial = {"damping": constant, "initial_damping": constant}
        self.scalars = Scalars(
            *(
                add(
                    name,
                    (),
                    initial.get(name, "zeros"),
                    "int64" if name in _COUNTERS else dtype,
                )
                for name in Scalars._fields
            )
        )
        self._accumulated: Accumulated | tuple[()] = ()
        if optimizer.gradient_accumulation_steps:
            totals = [
                tuple(
                    add(f"{block.name}_{slot.name}_total".replace("/", "_"), slot.shape, "zeros")
                    for slot, _ in zip(block.slots, averages, strict=False)
                )
                for block, averages in zip(
                    layout.blocks, estimates(layout.blocks, self._blocks), strict=True
                )
            ]
            self._accumulated = Accumulated(
                totals, add("accumulated_batches", (), "zeros", "int64")
            )

    def recall(self) -> Memory:
        """The values of the whole state."""
        return tf.nest.map_structure(tf.convert_to_tensor, self._everything())

    def remember(self, memory: Memory) -> None:
        """Store the whole state. Must not be called inside a condition."""
        replicas.store(tf.nest.flatten(self._everything()), tf.nest.flatten(memory))

    def named_tensors(self) -> dict[str, Any]:
        """The variables whose shapes depend on the model's, by names that do not."""
        named = {f"previous_step_{i}": v for i, v in enumerate(self._previous_step)}
        for i, (block, state) in enumerate(zip(self.layout.blocks, self._blocks, strict=True)):
            slots = zip(block.slots, tf.nest.flatten(state), strict=True)
            named |= {f"block_{i}_{slot.name}": variable for slot, variable in slots}
        if isinstance(self._accumulated, Accumulated):
            totals = tf.nest.flatten(self._accumulated.totals)
            named |= {f"total_{i}": variable for i, variable in enumerate(totals)}
        return named

    def _everything(self) -> Memory:
        return Memory(self._blocks, self._previous_step, self.scalars, self._accumulated)
