"""Small tensors joined to vectors, so that what is done with every one of them is done once.

An operation takes microseconds to start, and about a millisecond when a graph is made of it,
however small its tensors are. Deep networks have hundreds of small ones: biases, scales, shifts.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import tensorflow as tf

# Numbers in a tensor that are copied without a thought: as many as a core adds in the time that it
# takes to start some operations.
SMALL = 2**15


class Joining:
    """Which tensors of a list are joined to one vector: small ones of the same kind.

    Attributes:
        groups: Positions of the tensors that each joined tensor holds; one alone keeps its shape.
    """

    def __init__(self, shapes: Sequence[tf.TensorShape], kinds: Sequence[Hashable]) -> None:
        """Find the groups.

        Args:
            shapes: Static shapes of the tensors.
            kinds: Tensors are only joined if these are equal; the same type is one condition.
        """
        self._shapes = [tf.TensorShape(shape) for shape in shapes]
        small: dict[Hashable, list[int]] = {}
        groups: list[list[int]] = []
        for index, (shape, kind) in enumerate(zip(self._shapes, kinds, strict=True)):
            if shape.num_elements() > SMALL:
                groups.append([index])
            elif kind in small:
                small[kind].append(index)
            else:
                small[kind] = [index]
                groups.append(small[kind])
        self.groups = groups

    def join(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """One tensor for each group.

        Args:
            tensors: One for each position; an empty list has nothing to be joined.
        """
        if not tensors:
            return []
        return [
            tensors[group[0]]
            if len(group) == 1
            else tf.concat([self._flat(tensors[index]) for index in group], axis=0)
            for group in self.groups
        ]

    def split(self, joined: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """One tensor for each position; what `join` was given.

        Args:
            joined: One tensor for each group, or an empty list.
        """
        if not joined:
            return []
        found: dict[int, tf.Tensor] = {}
        for group, tensor in zip(self.groups, joined, strict=True):
            if len(group) == 1:
                found[group[0]] = tensor
                continue
            sizes = [self._shapes[index].num_elements() for index in group]
            for index, part in zip(group, tf.split(tensor, sizes), strict=True):
                shape = self._shapes[index]
                found[index] = part if shape.rank == 1 else tf.reshape(part, shape)
        return [found[index] for index in range(len(self._shapes))]

    @staticmethod
    def _flat(tensor: tf.Tensor) -> tf.Tensor:
        return tensor if tensor.shape.rank == 1 else tf.reshape(tensor, [-1])
