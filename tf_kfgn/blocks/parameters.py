"""From marked variables to blocks: which variables an optimizer preconditions together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_kfgn.layers.parameters import WeightMatrix, mark_of


@dataclasses.dataclass(frozen=True)
class ParameterBlock:
    """Variables that form one weight matrix.

    Attributes:
        matrix: How their values are joined and split.
        indices: Positions of kernel [and bias] among the variables of the optimizer.
    """

    matrix: WeightMatrix
    indices: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of the joint matrix: in_features, and one more with a bias."""
        return self.matrix.in_features + len(self.indices) - 1

    @property
    def columns(self) -> int:
        """Columns of the joint matrix: out_features."""
        return self.matrix.out_features

    def join(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """The joint matrix of this block, from one tensor for each variable of the optimizer."""
        return self.matrix.join([tensors[index] for index in self.indices])

    def split(self, matrix: tf.Tensor, like: Sequence[Any]) -> dict[int, tf.Tensor]:
        """Pieces of a joint matrix, by position, shaped like the tensors at these positions."""
        shapes = [like[index].shape for index in self.indices]
        return dict(zip(self.indices, self.matrix.split(matrix, shapes), strict=True))


class Layout(NamedTuple):
    """The variables of an optimizer and the blocks that cover them.

    Attributes:
        variables: Trainable variables.
        blocks: Blocks that together hold every variable once.
        l2: η of each variable, see `l2_coefficient`.
    """

    variables: list[Any]
    blocks: list[ParameterBlock]
    l2: list[float]

    @classmethod
    def of(cls, variables: Sequence[Any]) -> Layout:
        """Find the blocks of variables from their marks; raises as `find_blocks` does."""
        return cls(list(variables), find_blocks(variables), [l2_coefficient(v) for v in variables])

    def ridges(self, damping: tf.Tensor) -> list[tf.Tensor]:
        """τ + η of each variable."""
        return [damping + eta for eta in self.l2]

    def block_ridges(self, damping: tf.Tensor) -> list[tf.Tensor]:
        """τ + η of each block, η being that of its kernel."""
        ridges = self.ridges(damping)
        return [ridges[block.indices[0]] for block in self.blocks]


def find_blocks(variables: Sequence[Any]) -> list[ParameterBlock]:
    """Group variables by their marks, in the order of the kernels.

    Raises:
        ValueError: If no variable is marked, or some variable belongs to no block.
    """
    members: dict[int, list[int]] = {}
    uncovered = []
    for index, variable in enumerate(variables):
        mark = mark_of(variable)
        if mark is None:
            uncovered.append(variable)
        elif mark.is_kernel:
            members.setdefault(id(mark.matrix), []).insert(0, index)
        else:
            members.setdefault(id(mark.matrix), []).append(index)
    blocks = []
    for indices in members.values():
        mark = mark_of(variables[indices[0]])
        if mark is not None and mark.is_kernel:
            blocks.append(ParameterBlock(mark.matrix, tuple(indices)))
        else:
            uncovered += [variables[index] for index in indices]
    if not members:
        raise ValueError(
            "None of the variables records curvature. Call tf_kfgn.enable_curvature(model) on the "
            "built model before compile() and fit(), or build it from tf_kfgn.layers."
        )
    if uncovered:
        names = [getattr(variable, "path", variable.name) for variable in uncovered]
        raise ValueError(
            f"These trainable variables have no curvature block: {names}. Blocks exist for the "
            "weights of Dense layers. Set `trainable = False` on the layers of the others, or use "
            "another optimizer."
        )
    return blocks


def l2_coefficient(variable: Any) -> float:
    """η: the second derivative that a variable's L2 regulariser adds to the objective."""
    regularizer = getattr(variable, "regularizer", None)
    if isinstance(regularizer, (keras.regularizers.L2, keras.regularizers.L1L2)):
        return 2.0 * float(regularizer.l2)
    return 0.0
