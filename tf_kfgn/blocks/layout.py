"""From marked variables to blocks: which variables an optimizer preconditions together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.blocks.block import Block
from tf_kfgn.blocks.diagonal import DiagonalBlock
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.operations.marks import mark_of, matrix_of
from tf_kfgn.operations.weight_matrix import WeightMatrix


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """The variables of an optimizer and the blocks that cover them.

    Attributes:
        variables: Trainable variables.
        blocks: Blocks that together hold every weight once.
        l2: η of each variable, see `l2_coefficient`.
    """

    variables: list[Any]
    blocks: list[Block]
    l2: list[float]

    @classmethod
    def of(cls, variables: Sequence[Any], max_factor_size: int | None = None) -> Layout:
        """Find the blocks of variables from their marks; see `find_blocks`."""
        blocks = find_blocks(variables, max_factor_size)
        return cls(list(variables), blocks, [l2_coefficient(v) for v in variables])

    @property
    def diagonal_variables(self) -> list[Any]:
        """The variables of diagonal blocks."""
        return [
            self.variables[block.indices[0]]
            for block in self.blocks
            if isinstance(block, DiagonalBlock)
        ]

    def matrix_of(self, block: KroneckerBlock) -> WeightMatrix:
        """How operations name a block's matrix now; its model may have been enabled anew."""
        return matrix_of(self.variables[block.indices[0]]) or block.matrix

    @property
    def matrices(self) -> set[WeightMatrix]:
        """The weight matrices of Kronecker blocks."""
        kronecker = [block for block in self.blocks if isinstance(block, KroneckerBlock)]
        return {self.matrix_of(block) for block in kronecker}

    def trains(self, block: Block) -> bool:
        """Whether some variable of a block is trained now; its layer may have been frozen since."""
        return any(self.variables[index].trainable for index in block.indices)

    def dampings(self, damping: tf.Tensor) -> list[tf.Tensor]:
        """τ + η of each variable."""
        return [damping + eta for eta in self.l2]

    def block_dampings(self, damping: tf.Tensor) -> list[tf.Tensor]:
        """τ + η of each block, η being that of its kernel."""
        dampings = self.dampings(damping)
        return [dampings[block.indices[0]] for block in self.blocks]


def find_blocks(variables: Sequence[Any], max_factor_size: int | None = None) -> list[Block]:
    """Group variables by their marks, in the order of the kernels.

    A variable that is marked to belong to no matrix, or to one whose kernel is missing here, has
    a diagonal block. One that holds the biases of several matrices is in the block of each.

    Args:
        variables: Trainable variables.
        max_factor_size: Rows above which a Kronecker factor is diagonal; None for no limit.

    Raises:
        ValueError: If some variable is not marked at all.
    """
    unmarked = [variable for variable in variables if mark_of(variable) is None]
    if unmarked or not variables:
        raise ValueError(
            f"These trainable variables record no curvature: {[path_of(v) for v in unmarked]}. "
            "Call tf_kfgn.enable_curvature(model) on the built model before compile() and fit(), "
            "or build it from tf_kfgn.layers."
        )
    marks = [mark_of(variable) for variable in variables]
    kernels = {
        mark.matrix: index
        for index, mark in enumerate(marks)
        if mark is not None and mark.matrix is not None and mark.is_kernel
    }
    members = {matrix: [index] for matrix, index in kernels.items()}
    for index, mark in enumerate(marks):
        if mark is not None and not mark.is_kernel and all(m in kernels for m in mark.matrices):
            for matrix in mark.matrices:
                members[matrix].append(index)
    blocks: dict[tuple[int, int], Block] = {
        (min(indices), indices[0]): KroneckerBlock(tuple(indices), matrix, max_factor_size)
        for matrix, indices in members.items()
    }
    covered = {index for block in blocks.values() for index in block.indices}
    for index, variable in enumerate(variables):
        if index not in covered:
            blocks[index, index] = DiagonalBlock((index,), path_of(variable), tuple(variable.shape))
    return [blocks[place] for place in sorted(blocks)]


def path_of(variable: Any) -> str:
    """Path of a Keras variable, or the name of a TensorFlow one."""
    return str(getattr(variable, "path", variable.name))


def l2_coefficient(variable: Any) -> float:
    """η: the second derivative that a variable's L2 regulariser adds to the objective."""
    regularizer = getattr(variable, "regularizer", None)
    if isinstance(regularizer, (keras.regularizers.L2, keras.regularizers.L1L2)):
        return 2.0 * float(regularizer.l2)
    return 0.0
