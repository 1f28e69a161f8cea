"""Traces and condition numbers of an optimizer's curvature, in double precision on the host."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tf_kfgn.blocks.kronecker import scale_ratio
from tf_kfgn.optimizers import GaussNewton
from tf_kfgn.optimizers.memory import Scalars


def spectra(optimizer: GaussNewton, scalars: Scalars) -> dict[str, float]:
    """Trace and condition number of each factor of each block.

    Factors are damped by τ as it is now, in the way in which they are inverted: `A + π √(τ + η) I`
    and `G + √(τ + η) / π I`, η being twice the weight of an L2 regulariser; diagonal blocks by
    τ + η.

    Args:
        optimizer: A built optimizer.
        scalars: Its scalars, as plain numbers.

    Returns:
        `trace/<block>/<factor>`, of the factor without damping, summed over groups; and
        `condition/<block>/<factor>`, of the damped factor, the largest of any group. Factors are
        `A` and `G`, or `diagonal`. NaN as long as no factors exist.
    """
    layout = optimizer.layout
    names = [block.name for block in layout.blocks]
    dampings = dict(zip(names, layout.block_dampings(scalars.damping), strict=True))
    known = scalars.factor_updates > 0
    found: dict[str, float] = {}
    for block, averages in optimizer.curvature().items():
        factors = [np.asarray(average, np.float64) for average in averages]
        for name, factor, damping in _with_dampings(factors, dampings[block]):
            found[f"trace/{block}/{name}"] = trace(factor) if known else math.nan
            condition = condition_number(factor, damping) if known else math.nan
            found[f"condition/{block}/{name}"] = condition
    return found


def trace(factor: np.ndarray) -> float:
    """Trace of a factor, `([groups,] d, d)` or its diagonal `([groups,] d, 1)`, over all groups."""
    if factor.shape[-1] == 1:
        return float(factor.sum())
    return float(np.trace(factor, axis1=-2, axis2=-1).sum())


def condition_number(factor: np.ndarray, damping: np.ndarray) -> float:
    """Condition number of `factor + damping I`, the largest of any group.

    Args:
        factor: Shape `([groups,] d, d)`, or its diagonal, `([groups,] d, 1)`.
        damping: Shape `([groups,] 1, 1)`.

    Returns:
        Largest over smallest eigenvalue; infinity if one is not positive.
    """
    eigenvalues = factor[..., 0] if factor.shape[-1] == 1 else np.linalg.eigvalsh(factor)
    damped = eigenvalues + damping[..., 0]
    largest, smallest = damped.max(axis=-1), damped.min(axis=-1)
    if not np.all(smallest > 0):
        return math.inf
    return float(np.max(largest / smallest))


def _with_dampings(
    factors: Sequence[np.ndarray], damping: float
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, values and damping of each factor of a block whose damping τ + η is given."""
    if len(factors) == 1:
        return [("diagonal", factors[0].reshape(-1, 1), np.full((1, 1), damping))]
    A, G = factors
    pi, root = np.asarray(scale_ratio(A, G)), math.sqrt(damping)
    return [("A", A, pi * root), ("G", G, root / pi)]
