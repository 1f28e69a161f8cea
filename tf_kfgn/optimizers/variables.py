"""The variables of an optimizer that hold its memory."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.blocks.block import Block
from tf_kfgn.blocks.collection import estimates
from tf_kfgn.blocks.factor import identity
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.optimizers.accumulation import Accumulated
from tf_kfgn.optimizers.directions import keeps_directions, wide_blocks
from tf_kfgn.optimizers.held_inverses import ABSENT, HeldInverses
from tf_kfgn.optimizers.memory import Memory, Scalars
from tf_kfgn.optimizers.reserve import keeps_reserve
from tf_kfgn.optimizers.settings import Settings

_INITIALIZERS = {"zeros": "zeros", "ones": "ones", "identity": identity}
_COUNTERS = {
    "averaged_steps",
    "surprises",
    "factor_updates",
    "inverse_age",
    "inversion_turn",
    "rejected_steps",
    "nonfinite_steps",
    "failed_inversions",
    "comparisons",
}


class MemoryVariables:
    """A `Memory` of variables, in an order that depends on the layout alone.

    Optimizer variables are saved by position. Being no attribute of the optimizer itself, the
    layout is not mistaken by Keras for more of them.

    Attributes:
        layout: The variables of the model and how they are blocked.
        held: The inverses that only one replica has each, or None where all have all.
        blocks: One state for each block, of variables, as are all that follow; without what is
            held apart.
        previous_step: One variable for each variable of the model.
        scalars: The scalar variables.
        mean_gradient: One variable for each variable of the model, or none.
        reserve: One variable for each variable of the model, or none.
        accumulated: Sums over batches; empty where every batch has an update of its own.
        mean_directions: Variables of joint matrices, by the places of their blocks.
    """

    def __init__(
        self, optimizer: keras.optimizers.Optimizer, layout: Layout, settings: Settings
    ) -> None:
        """Add the variables to an optimizer.

        Args:
            optimizer: Where they belong.
            layout: Its variables and blocks.
            settings: Its settings.
        """
        self.layout = layout
        double = any(variable.dtype == "float64" for variable in layout.variables)
        dtype = "float64" if double else "float32"

        def add(name: str, shape: tuple[int, ...], initializer: Any, dtype: str = dtype) -> Any:
            name = name.replace("/", "_")
            return optimizer.add_variable(
                shape, initializer, dtype, "only_first_replica", name=name
            )

        def constant(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
            return tf.constant(
                settings.initial_damping, dtype, shape
            )  # Keras' own rounds to float32

        several = tf.distribute.get_strategy().num_replicas_in_sync > 1
        apart = settings.sharding == "inverses" and several
        of_factors = settings.curvature_dtype or dtype
        self.held = HeldInverses(layout, of_factors) if apart else None

        def state_of(place: int, block: Block) -> Any:
            kept = of_factors if isinstance(block, KroneckerBlock) else dtype
            away = block.inverse_slots if self.held and self.held.holds(place) else []
            return block.state(
                [
                    ABSENT
                    if slot in away
                    else add(
                        f"{block.name}_{slot.name}", slot.shape, _INITIALIZERS[slot.initial], kept
                    )
                    for slot in block.slots
                ]
            )

        self.blocks = [state_of(place, block) for place, block in enumerate(layout.blocks)]
        self.previous_step = optimizer.add_optimizer_variables(layout.variables, "previous_step")
        initial = {"damping": constant, "initial_damping": constant, "trust": "ones"}
        self.scalars = Scalars(
            *(
                add(name, (), initial.get(name, "zeros"), "int64" if name in _COUNTERS else dtype)
                for name in Scalars._fields
            )
        )
        self.mean_gradient = (
            optimizer.add_optimizer_variables(layout.variables, "mean_gradient")
            if settings.gradient_decay
            else []
        )
        self.reserve = (
            optimizer.add_optimizer_variables(layout.variables, "reserve")
            if keeps_reserve(settings)
            else []
        )
        self.accumulated: Accumulated | tuple[()] = ()
        if optimizer.gradient_accumulation_steps:
            averages = estimates(layout.blocks, self.blocks)
            totals = [
                tuple(
                    add(f"{block.name}_{slot.name}_total", slot.shape, "zeros")
                    for slot, _ in zip(block.slots, average, strict=False)
                )
                for block, average in zip(layout.blocks, averages, strict=True)
            ]
            self.accumulated = Accumulated(totals, add("accumulated_batches", (), "zeros", "int64"))
        self.mean_directions: dict[int, Any] = {}
        if keeps_directions(optimizer, settings):
            for place, block in wide_blocks(layout).items():
                shape = (block.rows, block.columns)
                self.mean_directions[place] = add(f"{block.name}_mean_direction", shape, "zeros")

    def read(self) -> Memory:
        """The values of the whole memory, as this replica has it."""
        memory = tf.nest.map_structure(tf.convert_to_tensor, self._everything())
        return memory if self.held is None else self.held.read(memory)

    def write(self, memory: Memory, old: Memory) -> None:
        """Store what has changed. Must not be called inside a condition.

        Args:
            memory: What to store.
            old: What was read. A tensor that is still the same is not written.
        """
        if self.held is not None:
            self.held.write(memory, old)
            memory, old = self.held.without(memory), self.held.without(old)
        triples = zip(
            *(tf.nest.flatten(each) for each in (self._everything(), memory, old)), strict=True
        )
        changed = [(variable, new) for variable, new, before in triples if new is not before]
        replicas.store([variable for variable, _ in changed], [new for _, new in changed])

    def without_inverses(self) -> None:
        """Let the next update compute all inverses anew: these belong to other factors."""
        self.scalars.inverse_age.assign(0)
        if self.held is not None:
            self.held.forget()

    def by_name(self) -> dict[str, Any]:
        """The variables whose shapes depend on the model's, by names that do not."""
        named = {f"previous_step_{i}": v for i, v in enumerate(self.previous_step)}
        named |= {f"mean_gradient_{i}": v for i, v in enumerate(self.mean_gradient)}
        named |= {f"reserve_{i}": v for i, v in enumerate(self.reserve)}
        named |= {f"mean_direction_{i}": v for i, v in self.mean_directions.items()}
        for i, (block, state) in enumerate(zip(self.layout.blocks, self.blocks, strict=True)):
            slots = zip(block.slots, tf.nest.flatten(state), strict=True)
            named |= {f"block_{i}_{slot.name}": v for slot, v in slots if v is not ABSENT}
        if isinstance(self.accumulated, Accumulated):
            totals = tf.nest.flatten(self.accumulated.totals)
            named |= {f"total_{i}": variable for i, variable in enumerate(totals)}
        return named

    def _everything(self) -> Memory:
        return Memory(
            self.blocks,
            self.previous_step,
            self.scalars,
            self.mean_gradient,
            self.reserve,
            self.accumulated,
            self.mean_directions,
        )
