"""A diagonal block: one variable, each element on its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from typing_extensions import override

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
    @override
    def name(self) -> str:
        return self.path.replace("/", "_")

    @property
    @override
    def slots(self) -> list[Slot]:
        return [Slot("diagonal", "zeros", self.shape), Slot("inverse", "ones", self.shape)]

    @override
    def state(self, values: Sequence[Any]) -> DiagonalState:
        return DiagonalState(*values)

    @override
    def estimate(self, state: DiagonalState) -> tuple[tf.Tensor, ...]:
        return (state.diagonal,)

    @override
    def average(
        self, state: DiagonalState, estimate: Sequence[tf.Tensor], decay: tf.Tensor
    ) -> DiagonalState:
        decay = tf.cast(decay, state.diagonal.dtype)
        [new] = estimate
        mixed = decay * state.diagonal + (1 - decay) * tf.cast(new, state.diagonal.dtype)
        return state._replace(diagonal=mixed)

    @override
    def invert(self, state: DiagonalState, damping: tf.Tensor) -> tuple[DiagonalState, tf.Tensor]:
        """Renew the inverse, `1 / (d + τ + η)`."""
        inverse = 1 / (state.diagonal + tf.cast(damping, state.diagonal.dtype))
        good = is_finite(inverse)
        return state._replace(inverse=tf.where(good, inverse, state.inverse)), good

    @override
    def precondition(
        self, state: DiagonalState, tensors: Sequence[tf.Tensor]
    ) -> dict[int, tf.Tensor]:
        [index] = self.indices
        product = state.inverse * tf.cast(tensors[index], state.inverse.dtype)
        return {index: tf.cast(product, tensors[index].dtype)}
