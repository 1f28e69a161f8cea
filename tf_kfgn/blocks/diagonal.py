"""A diagonal block: one variable, each element on its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn.blocks.block import Block, Shape, Slot
from tf_kfgn.blocks.factor import is_finite


class DiagonalState(NamedTuple):
    """What a block remembers, both shaped like the variable.

    Attributes:
        diagonal: Moving average of the diagonal of the Gauss-Newton matrix.
        inverse: Inverse of the damped diagonal; ones until the first inversion.
    """

    diagonal: tf.Tensor
    inverse: tf.Tensor


@dataclasses.dataclass(frozen=True)
class DiagonalBlock(Block):
    """A variable without a weight matrix: scale and shift of a normalisation, or any other.

    Attributes:
        indices: Position of the variable among those of the optimizer.
        path: Path of the variable.
        shape: Shape of the variable.
    """

    path: str
    shape: Shape

    @property
    def name(self) -> str:
        """See `Block.name`."""
        return self.path.replace("/", "_")

    @property
    def slots(self) -> list[Slot]:
        """See `Block.slots`."""
        return [Slot("diagonal", "zeros", self.shape), Slot("inverse", "ones", self.shape)]

    def state(self, values: Sequence[Any]) -> DiagonalState:
        """See `Block.state`."""
        return DiagonalState(*values)

    def estimate(self, state: DiagonalState) -> tuple[tf.Tensor, ...]:
        """See `Block.estimate`: the diagonal."""
        return (state.diagonal,)

    def average(
        self, state: DiagonalState, estimate: Sequence[tf.Tensor], decay: tf.Tensor
    ) -> DiagonalState:
        """See `Block.average`."""
        decay = tf.cast(decay, state.diagonal.dtype)
        [new] = estimate
        mixed = decay * state.diagonal + (1 - decay) * tf.cast(new, state.diagonal.dtype)
        return state._replace(diagonal=mixed)

    def invert(self, state: DiagonalState, damping: tf.Tensor) -> tuple[DiagonalState, tf.Tensor]:
        """See `Block.invert`: `1 / (d + τ)`."""
        inverse = 1 / (state.diagonal + tf.cast(damping, state.diagonal.dtype))
        good = is_finite(inverse)
        return state._replace(inverse=tf.where(good, inverse, state.inverse)), good

    def precondition(
        self, state: DiagonalState, tensors: Sequence[tf.Tensor]
    ) -> dict[int, tf.Tensor]:
        """See `Block.precondition`."""
        [index] = self.indices
        product = state.inverse * tf.cast(tensors[index], state.inverse.dtype)
        return {index: tf.cast(product, tensors[index].dtype)}
