"""Blocks of an approximation to the Gauss-Newton matrix, in NumPy: dense, and damped and solved."""

from __future__ import annotations

import abc
import math
from typing import Any

import numpy as np
from typing_extensions import override

from tf_kfgn.analysis.factor_spectra import eigenvalues


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
    """`A ⊗ G`, for each group, damped as the optimizers do: factored Tikhonov damping.

    `(A + π √τ I) ⊗ (G + √τ / π I)` with `π² = (tr A / dim A) / (tr G / dim G)`; Martens & Grosse
    (2015), section 6.3.
    """

    def __init__(self, A: Any, G: Any) -> None:
        """Hold the factors, `([groups,] d, d)`, or their diagonals, `([groups,] d, 1)`."""
        self._groups = list(zip(_matrices(A), _matrices(G), strict=True))

    @override
    def dense(self) -> np.ndarray:
        blocks = [np.kron(A, G) for A, G in self._groups]
        size = sum(map(len, blocks))
        whole, start = np.zeros((size, size)), 0
        for block in blocks:
            stop = start + len(block)
            whole[start:stop, start:stop] = block
            start = stop
        return whole

    @override
    def solve(self, gradient: np.ndarray, damping: float) -> np.ndarray:
        root, parts = math.sqrt(damping), []
        pieces = np.split(gradient, len(self._groups))
        for (A, G), piece in zip(self._groups, pieces, strict=True):
            means = np.trace(A) / len(A), np.trace(G) / len(G)
            pi = math.sqrt(means[0] / means[1]) if min(means) > 0 else 1.0
            rows = np.linalg.solve(A + pi * root * np.eye(len(A)), piece.reshape(len(A), len(G)))
            parts.append(np.linalg.solve(G + root / pi * np.eye(len(G)), rows.T).T.ravel())
        return np.concatenate(parts)

    @override
    def top_eigenvalue(self) -> float:
        return max(float(eigenvalues(A).max() * eigenvalues(G).max()) for A, G in self._groups)


def _matrices(factor: Any) -> list[np.ndarray]:
    """The factor of each group as a square matrix."""
    values = np.asarray(factor, np.float64)
    if values.shape[-1] == 1 != values.shape[-2]:
        values = values * np.eye(values.shape[-2])
    return list(values if values.ndim == 3 else values[None])
