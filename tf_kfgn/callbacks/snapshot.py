"""What an optimizer's scalars say between two updates, and what the update between them did."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn.optimizers import GaussNewton
from tf_kfgn.optimizers.curvature import factors_due, turns_due
from tf_kfgn.optimizers.memory import Memory, Scalars


class Snapshot(NamedTuple):
    """The scalars of a Gauss-Newton optimizer, as plain numbers.

    Attributes:
        iteration: Updates so far.
        scalars: The scalar state.
    """

    iteration: int
    scalars: Scalars

    @classmethod
    def of(cls, optimizer: GaussNewton) -> Snapshot:
        """Read the scalars, which waits for the device; all 0 before the optimizer is built."""
        if not optimizer.built:
            return cls(0, Scalars(*(0 for _ in Scalars._fields)))
        scalars = Scalars(*(_number(variable) for variable in optimizer.memory.scalars))
        return cls(_number(optimizer.iterations), scalars)


class Parts(NamedTuple):
    """The parts of an update that ran, beyond its gradient and step.

    Attributes:
        factors: Whether new factors were estimated.
        inverses: How much of the damped factors was inverted: the part of the work, from 0 to 1.
        comparison: Whether the objective was measured once more, after the step or before the last.
    """

    factors: bool
    inverses: float
    comparison: bool


def parts_between(before: Snapshot, after: Snapshot, optimizer: GaussNewton) -> Parts | None:
    """What ran between two snapshots, or None if that was not one update in which all went well.

    Args:
        before: Snapshot before the update.
        after: Snapshot after it.
        optimizer: Built, if it has made an update.
    """
    old, new, settings = before.scalars, after.scalars, optimizer.settings
    if after.iteration != before.iteration + 1:
        return None
    if new.nonfinite_steps > old.nonfinite_steps or new.failed_inversions > old.failed_inversions:
        return None
    memory = Memory([], [], old, [], [])
    layout = optimizer.layout
    due = turns_due(settings, len(layout.turns), before.iteration)
    costs = [
        sum(layout.blocks[place].inversion_cost for place in places) for places in layout.turns
    ]
    in_turn = sum(cost for cost, now in zip(costs, due, strict=True) if now)
    return Parts(
        factors=bool(factors_due(settings, memory, before.iteration)),
        inverses=1.0 if new.inverse_age == 1 else in_turn / max(sum(costs), 1),
        comparison=new.comparisons > old.comparisons,
    )


def _number(variable: Any) -> Any:
    return tf.convert_to_tensor(variable).numpy().item()
