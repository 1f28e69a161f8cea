"""The weights of an optimizer as the move sees them: the small ones joined to vectors.

What an update does to every element alike, and every inner product, is then a few operations for
all biases, scales and shifts together. Only the blocks and the products with the Jacobian take one
tensor for each variable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.numerics.joining import Joining
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.memory import Memory


class JoinedWeights(NamedTuple):
    """How the weights are joined: those of one type and damping that move, or do not, together.

    Attributes:
        layout: The variables and blocks of the optimizer.
        joining: Which variables are joined.
    """

    layout: Layout
    joining: Joining

    @classmethod
    def of(cls, layout: Layout, moving: Sequence[bool]) -> JoinedWeights:
        """Join the weights of an optimizer.

        Args:
            layout: Its variables and blocks.
            moving: Whether each variable moves.
        """
        variables = layout.variables
        kinds = [
            (str(variable.dtype), eta, moves)
            for variable, eta, moves in zip(variables, layout.l2, moving, strict=True)
        ]
        return cls(layout, Joining([variable.shape for variable in variables], kinds))

    def read(self) -> list[tf.Tensor]:
        """The weights."""
        return self.joining.join([tf.convert_to_tensor(v) for v in self.layout.variables])

    def store(self, weights: Sequence[tf.Tensor]) -> None:
        """Assign the weights, on every replica. Must not be called inside a condition."""
        replicas.store(self.layout.variables, self.joining.split(weights))

    def dampings(self, damping: tf.Tensor) -> list[tf.Tensor]:
        """τ + η of each joined tensor."""
        return [damping + self.layout.l2[group[0]] for group in self.joining.groups]

    def joined_batch(self, batch: Batch) -> Batch:
        """What a batch brings, in joined tensors."""
        own = batch.own_gradient
        return batch._replace(
            gradient=self.joining.join(batch.gradient),
            own_gradient=None if own is None else self.joining.join(own),
            moving=[batch.moving[group[0]] for group in self.joining.groups],
        )

    def joined_memory(self, memory: Memory) -> Memory:
        """The memory with joined tensors in place of one for each variable."""
        return _with_vectors(memory, self.joining.join)

    def separated(self, memory: Memory) -> Memory:
        """The memory with one tensor for each variable again."""
        return _with_vectors(memory, self.joining.split)


def _with_vectors(
    memory: Memory, change: Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]
) -> Memory:
    return memory._replace(
        previous_step=change(memory.previous_step),
        mean_gradient=change(memory.mean_gradient),
        reserve=change(memory.reserve),
    )
