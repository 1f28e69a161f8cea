"""The inverses of a replica's share of the blocks, which no other replica has.

They are in no file. What a file lacks, the next update computes from the averages.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.blocks import collection
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.blocks.shares import shares_of
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.replicas.buffers import flattened, numbers, restored

# In place of an inverse that another replica has; always this object.
ABSENT = np.zeros((0,), "float32")


class HeldInverses:
    """One buffer on each replica, as long as the largest share, with matrices as triangles."""

    def __init__(self, layout: Layout, dtype: str) -> None:
        """Make the buffers.

        Args:
            layout: The blocks.
            dtype: Type of the inverses.
        """
        self._blocks, self._dtype = layout.blocks, tf.as_dtype(dtype)
        count = tf.distribute.get_strategy().num_replicas_in_sync
        self._shares = shares_of(layout.blocks, count)
        self._places = {place for share in self._shares for place in share}
        lengths = [
            sum(
                numbers(slot.shape) for place in share for slot in self._blocks[place].inverse_slots
            )
            for share in self._shares
        ]
        # The last number says whether the others are inverses.
        self._buffer = tf.Variable(
            tf.zeros((max(lengths) + 1,), self._dtype),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def holds(self, place: int) -> bool:
        """Whether the inverses of a block, by its position, are here and not in its state."""
        return place in self._places

    def read(self, memory: Memory) -> Memory:
        """The memory with the inverses of this replica's share.

        Args:
            memory: With any values in their place. Without inverses their age is 0: none were made.
        """
        buffer = tf.convert_to_tensor(self._buffer)
        share = self._shares[replicas.index()]
        slots = [slot for place in share for slot in self._blocks[place].inverse_slots]
        specs = [tf.TensorSpec(slot.shape, self._dtype) for slot in slots]
        length = sum(numbers(slot.shape) for slot in slots)
        found = iter(restored(buffer[:length], specs))
        own = {
            place: tuple(next(found) for _ in self._blocks[place].inverse_slots) for place in share
        }
        age = tf.where(buffer[-1] > 0, memory.scalars.inverse_age, 0)
        return self._with(memory, own).with_scalars(inverse_age=age)

    def write(self, memory: Memory, old: Memory) -> None:
        """Keep the inverses of this replica's share.

        Args:
            memory: Which has them.
            old: What was read. Where it has the same tensors, nothing is written.
        """
        share = self._shares[replicas.index()]
        new, before = (
            [tensor for place in share for tensor in made[place]]
            for made in (collection.inverses(self._blocks, m.blocks) for m in (memory, old))
        )
        if all(one is other for one, other in zip(new, before, strict=True)):
            return
        flat = flattened(new, self._dtype)
        there = tf.cast(memory.scalars.inverse_age > 0, self._dtype)
        padding = tf.zeros((self._buffer.shape[0] - 1 - flat.shape[0],), self._dtype)
        self._buffer.assign(tf.concat([flat, padding, there[None]], axis=0))

    def without(self, memory: Memory) -> Memory:
        """The memory with `ABSENT` in place of every inverse that is held here."""
        absent = {
            place: (ABSENT,) * len(self._blocks[place].inverse_slots) for place in self._places
        }
        return self._with(memory, absent)

    def forget(self) -> None:
        """Let the next update compute them anew."""
        self._buffer.assign(tf.zeros_like(self._buffer))

    def _with(self, memory: Memory, inverses: dict[int, tuple[tf.Tensor, ...]]) -> Memory:
        """The memory with other inverses of some blocks."""
        blocks, states = self._blocks, memory.blocks
        kept = collection.inverses(blocks, states)
        new = [inverses.get(place, old) for place, old in enumerate(kept)]
        averages = collection.estimates(blocks, states)
        return memory._replace(blocks=collection.assembled(blocks, averages, new))
