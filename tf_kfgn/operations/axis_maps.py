"""Linear maps of positions, axis by axis, and what they do to averages over channels alone.

Positions of two tensors are *aligned* if they lie at the same place: the same position where both
have as many, the position of the coarser one that a finer one lies in, and the only one of a tensor
without positions. Between two tensors only the mean over aligned pairs is carried; all other pairs
count as uncorrelated.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from tf_kfgn.operations.layout import Layout


@dataclasses.dataclass(frozen=True, eq=False)
class AxisMaps:
    """A map of positions that is a sum over taps of products over the axes.

    Attributes:
        axes: For each axis the map of each tap, shape `(taps, outputs, inputs)`.
    """

    axes: Sequence[np.ndarray]

    @property
    def inputs(self) -> tuple[int, ...]:
        """Positions of the input along each axis."""
        return tuple(axis.shape[2] for axis in self.axes)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Positions of the output along each axis."""
        return tuple(axis.shape[1] for axis in self.axes)

    def own_weights(self) -> np.ndarray:
        """Weight of each tap in the mean block of the input, `(taps,)`, the last axis fastest.

        The mean over inputs p of the sum over outputs q of the squared map from p to q.
        """
        return _product([np.square(m).sum(axis=(1, 2)) / m.shape[2] for m in self.axes])

    def cross_weights(self, other: Layout) -> np.ndarray | None:
        """Weight of each tap in the mean block of the input with another tensor.

        The mean over aligned pairs (p, t) of the sum over the outputs q aligned with t of the map
        from p to q.

        Args:
            other: Layout of the other tensor.

        Returns:
            Shape `(taps,)`, or None if no positions are aligned.
        """
        sizes = other.sizes
        if other.num_positions == 1 or np.prod(self.inputs) == np.prod(self.outputs) == 1:
            sizes = (1,) * len(self.axes)
        if len(sizes) != len(self.axes):
            return None
        weights = []
        for one, size in zip(self.axes, sizes, strict=True):
            before, behind = _cells(one.shape[2], size), _cells(one.shape[1], size)
            weights.append(np.einsum("kqp,pt,qt->k", one, before, behind) / before.sum())
        return _product(weights)


def alignment(first: Layout, second: Layout) -> np.ndarray | None:
    """Which positions of two tensors are aligned.

    Returns:
        Ones and zeros of shape `(positions, positions of the other)`; None if the two have axes
        that cannot be compared.
    """
    P, Q = first.num_positions, second.num_positions
    if min(P, Q) == 1:
        return np.ones((P, Q))
    if len(first.sizes) != len(second.sizes):
        return np.eye(P) if P == Q else None
    pairs = zip(first.sizes, second.sizes, strict=True)
    return functools.reduce(np.kron, [_cells(*pair) for pair in pairs])


def _cells(first: int, second: int) -> np.ndarray:
    """Aligned positions of two axes: each position of the longer one lies in one of the other."""
    fine, coarse = max(first, second), min(first, second)
    cells = np.eye(coarse)[np.arange(fine) * coarse // fine]
    return cells if first >= second else cells.T


def _product(weights: Sequence[np.ndarray]) -> np.ndarray:
    return functools.reduce(lambda a, b: np.multiply.outer(a, b).ravel(), weights, np.ones(1))
