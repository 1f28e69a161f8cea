"""The spectrum of Kronecker blocks, from the spectra of their factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tf_kfgn.analysis.density import SpectralDensity
from tf_kfgn.factors import KroneckerFactors


class KroneckerSpectrum(NamedTuple):
    """The eigenvalues of Kronecker blocks.

    Attributes:
        blocks: All eigenvalues of the block of each layer, ascending.
        density: Their distribution over all blocks together.
    """

    blocks: dict[str, np.ndarray]
    density: SpectralDensity


def kronecker_spectrum(factors: Mapping[str, KroneckerFactors]) -> KroneckerSpectrum:
    """All eigenvalues of `A ⊗ G`, which are the products of those of A and of G.

    Costs the eigenvalues of the factors, and no product with a matrix of the size of a block.

    Args:
        factors: What `kronecker_factors` returns.

    Returns:
        The spectrum of each block and of all together.

    Raises:
        ValueError: If there are no factors.
    """
    if not factors:
        raise ValueError("`factors` is empty; pass what kronecker_factors returns.")
    blocks = {}
    for name, (A, G) in factors.items():
        pairs = eigenvalues(A)[..., :, None] * eigenvalues(G)[..., None, :]
        blocks[name] = np.sort(pairs, axis=None)
    points = np.concatenate(list(blocks.values()))
    weights = np.full(len(points), 1 / len(points))
    return KroneckerSpectrum(blocks, SpectralDensity(points, weights, len(points)))


def eigenvalues(factor: Any) -> np.ndarray:
    """Eigenvalues of a factor, `([groups,] d, d)`, or of its diagonal, `([groups,] d, 1)`."""
    values = np.asarray(factor, np.float64)
    if values.shape[-1] == 1:
        return values[..., 0]
    return np.linalg.eigvalsh(values)
