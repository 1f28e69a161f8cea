"""Marks on variables: which weight matrix a variable belongs to.

The optimizer is rebuilt from the variables alone when a model is loaded. So a recording layer
marks its variables when it is built, and the optimizer finds its blocks from these marks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tf_kfgn.operations.weight_matrix import WeightMatrix

_MARK = "_tf_kfgn_mark"


@dataclasses.dataclass(frozen=True)
class Mark:
    """What a variable is to its block; without a matrix it has a diagonal block of its own.

    Attributes:
        matrix: The weight matrix that it belongs to, or None.
        is_kernel: Whether it is the kernel there, rather than the bias.
        others: Further matrices whose bias is a row of it.
    """

    matrix: WeightMatrix | None
    is_kernel: bool
    others: tuple[WeightMatrix, ...] = ()

    @property
    def matrices(self) -> tuple[WeightMatrix, ...]:
        """All matrices that it has a part in."""
        return () if self.matrix is None else (self.matrix, *self.others)


def mark_weights(matrix: WeightMatrix, kernel: Any, bias: Any) -> None:
    """Mark the kernel and the bias (or None) of a built layer as one weight matrix."""
    setattr(kernel, _MARK, Mark(matrix, is_kernel=True))
    if bias is not None:
        setattr(bias, _MARK, Mark(matrix, is_kernel=False))


def mark_biases(matrices: Sequence[WeightMatrix], bias: Any) -> None:
    """Mark a variable of which each row is the bias of another weight matrix."""
    setattr(bias, _MARK, Mark(matrices[0], is_kernel=False, others=tuple(matrices[1:])))


def mark_diagonal(variable: Any) -> None:
    """Mark a variable as one with a diagonal block of its own, unless it has a mark already."""
    if mark_of(variable) is None:
        setattr(variable, _MARK, Mark(None, is_kernel=False))


def mark_of(variable: Any) -> Mark | None:
    """The mark of a variable, or None."""
    return getattr(variable, _MARK, None)


def matrix_of(variable: Any) -> WeightMatrix | None:
    """The weight matrix that a variable is marked to belong to, or None."""
    mark = mark_of(variable)
    return None if mark is None else mark.matrix


def is_kernel(variable: Any) -> bool:
    """Whether a variable is marked to be the kernel of a weight matrix."""
    mark = mark_of(variable)
    return mark is not None and mark.is_kernel


def remove_marks(variables: Sequence[Any]) -> None:
    """Leave the variables as Keras made them."""
    for variable in variables:
        if mark_of(variable) is not None:
            delattr(variable, _MARK)
