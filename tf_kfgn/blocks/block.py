"""What a block is: some variables of an optimizer, preconditioned together.

A block holds no values. Its functions are pure: they take and give back its *state*, a named tuple
of tensors (or of the variables that hold them).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Shape = tuple[int, ...]


class Slot(NamedTuple):
    """One tensor of a block's state.

    Attributes:
        name: What it is, unique in the block.
        initial: `"zeros"`, `"ones"`, or `"identity"` for a factor.
        shape: Its shape.
    """

    name: str
    initial: str
    shape: Shape


@dataclasses.dataclass(frozen=True)
class Block(abc.ABC):
    """Variables that one approximation of the Gauss-Newton matrix covers.

    Attributes:
        indices: Positions of the variables among those of the optimizer.
    """

    indices: tuple[int, ...]

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Name for messages and variables."""

    @property
    @abc.abstractmethod
    def slots(self) -> list[Slot]:
        """The tensors of the state: averages, as `estimate` has them, and then their inverses."""

    @property
    def inverse_slots(self) -> list[Slot]:
        """Those of the slots that hold inverses: the second half."""
        return self.slots[len(self.slots) // 2 :]

    @abc.abstractmethod
    def state(self, values: Sequence[Any]) -> Any:
        """A state with one value for each slot."""

    @abc.abstractmethod
    def estimate(self, state: Any) -> tuple[tf.Tensor, ...]:
        """The averages in a state, in the form in which new estimates come."""

    @abc.abstractmethod
    def average(self, state: Any, estimate: Sequence[tf.Tensor], decay: tf.Tensor) -> Any:
        """Mix a new estimate into the averages: `s <- decay * s + (1 - decay) * x`."""

    @abc.abstractmethod
    def invert(self, state: Any, damping: tf.Tensor) -> tuple[Any, tf.Tensor]:
        """Renew the inverses, with damping τ + η.

        Returns:
            The new state, and whether that went well; if not, the last good inverses stay.
        """

    @property
    def inversion_cost(self) -> int:
        """Multiplications and additions of `invert`, up to a factor; 0 without any matrix."""
        return 0

    @abc.abstractmethod
    def precondition(self, state: Any, tensors: Sequence[tf.Tensor]) -> dict[int, tf.Tensor]:
        """The damped inverse times the block's part of a vector.

        Args:
            state: The state.
            tensors: One tensor for each variable of the optimizer.

        Returns:
            The block's pieces, by position.
        """
