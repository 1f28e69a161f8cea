"""What an optimizer's scalars say between two updates, and what the update between them did."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn.optimizers import GaussNewton
from tf_kfgn.optimizers.curvature import factors_due
from tf_kfgn.optimizers.memory import Memory, Scalars
from tf_kfgn.optimizers.settings import Settings


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
        inverses: Whether damped factors were inverted.
        comparison: Whether the objective was measured once more, after the step or before the last.
    """

    factors: bool
    inverses: bool
    comparison: bool


def parts_between(before: Snapshot, after: Snapshot, settings: Settings) -> Parts | None:
    """What ran between two snapshots, or None if that was not one finite update.

    Args:
        before: Snapshot before the update.
        after: Snapshot after it.
        settings: The optimizer's settings.
    """
    old, new = before.scalars, after.scalars
    if after.iteration != before.iteration + 1 or new.nonfinite_steps > old.nonfinite_steps:
        return None
    memory = Memory([], [], old, [], [])
    return Parts(
        factors=bool(factors_due(settings, memory, before.iteration)),
        inverses=new.inverse_age == 1
        or new.inversion_turn != old.inversion_turn
        or new.failed_inversions > old.failed_inversions,
        comparison=new.comparisons > old.comparisons,
    )


def _number(variable: Any) -> Any:
    return tf.convert_to_tensor(variable).numpy().item()
