"""Blocks of an approximation to the Gauss-Newton matrix, dense, and damped and solved."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.analysis.factor_spectra import eigenvalues
from tf_kfgn.blocks import kronecker


class ApproximateBlock(abc.ABC):
    """An approximation to the block of some weights."""

    @abc.abstractmethod
    def dense(self) -> np.ndarray:
        """The block, shape `(weights, weights)`."""

    @abc.abstractmethod
    def solve(self, gradient: np.ndarray, damping: float) -> np.ndarray:
        """The inverse of the damped block times a vector."""

    @abc.abstractmethod
    def top_eigenvalue(self) -> float:
        """The largest eigenvalue."""


class ExactBlock(ApproximateBlock):
    """The block itself, damped by `τ I`."""

    def __init__(self, block: np.ndarray) -> None:
        """Hold it."""
        self._block = block

    @override
    def dense(self) -> np.ndarray:
        return self._block

    @override
    def solve(self, gradient: np.ndarray, damping: float) -> np.ndarray:
        return np.linalg.solve(self._block + damping * np.eye(len(gradient)), gradient)

    @override
    def top_eigenvalue(self) -> float:
        return float(np.linalg.eigvalsh(self._block)[-1])


class DiagonalBlock(ApproximateBlock):
    """A diagonal, damped by `τ`."""

    def __init__(self, diagonal: np.ndarray) -> None:
        """Hold it."""
        self._diagonal = diagonal

    @override
    def dense(self) -> np.ndarray:
        return np.diag(self._diagonal)

    @override
    def solve(self, gradient: np.ndarray, damping: float) -> np.ndarray:
        return gradient / (self._diagonal + damping)

    @override
    def top_eigenvalue(self) -> float:
        return float(self._diagonal.max())


class KroneckerBlock(ApproximateBlock):
    """`A ⊗ G`, for each group, damped by the optimizers' own `tf_kfgn.blocks.kronecker.invert`."""

    def __init__(self, A: Any, G: Any) -> None:
        """Hold the factors, `([groups,] d, d)`, or their diagonals, `([groups,] d, 1)`."""
        self._A, self._G = (tf.cast(factor, tf.float64) for factor in (A, G))

    @override
    def dense(self) -> np.ndarray:
        pairs = zip(_matrices(self._A), _matrices(self._G), strict=True)
        blocks = [np.kron(A, G) for A, G in pairs]
        size = sum(map(len, blocks))
        whole, start = np.zeros((size, size)), 0
        for block in blocks:
            stop = start + len(block)
            whole[start:stop, start:stop] = block
            start = stop
        return whole

    @override
    def solve(self, gradient: np.ndarray, damping: float) -> np.ndarray:
        state = kronecker.KroneckerState(self._A, self._G, self._A, self._G)
        inverted, _ = kronecker.invert(state, tf.constant(damping, tf.float64))
        *groups, rows, _ = self._A.shape
        matrix = tf.reshape(gradient, (*groups, rows, self._G.shape[-2]))
        return kronecker.precondition(inverted, matrix).numpy().ravel()

    @override
    def top_eigenvalue(self) -> float:
        return float((eigenvalues(self._A).max(-1) * eigenvalues(self._G).max(-1)).max())


def _matrices(factor: Any) -> list[np.ndarray]:
    """The factor of each group as a square matrix."""
    values = np.asarray(factor, np.float64)
    if values.shape[-1] == 1 != values.shape[-2]:
        values = values * np.eye(values.shape[-2])
    return list(values if values.ndim == 3 else values[None])
