"""Top eigenpairs, trace, diagonal and spectral density of a symmetric operator, from products.

Nothing here knows where the operator comes from: `hessian_operator`, `gauss_newton_operator`, or
any other `scipy.sparse.linalg.LinearOperator`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from tf_kfgn.analysis.density import SpectralDensity
from tf_kfgn.analysis.extras import require
from tf_kfgn.analysis.progress import follow
from tf_kfgn.numerics.checks import check_choice, check_count

Which = Literal["LA", "LM", "SA"]
Method = Literal["hutchinson", "hutch++"]


class Eigenpairs(NamedTuple):
    """Some eigenvalues and their vectors.

    Attributes:
        values: Shape `(k,)`, the largest (in the order asked for) first.
        vectors: Shape `(weights, k)`, of length 1.
    """

    values: np.ndarray
    vectors: np.ndarray


class Estimate(NamedTuple):
    """A random estimate.

    Attributes:
        value: A number, or a number for each weight.
        standard_error: Of the value, shaped like it: the standard deviation of the mean over the
            random vectors.
    """

    value: Any
    standard_error: Any


def top_eigenpairs(operator: Any, k: int = 10, *, which: Which = "LA", seed: int = 0) -> Eigenpairs:
    """The top eigenvalues of a symmetric operator, by SciPy's `eigsh`.

    Args:
        operator: A symmetric `LinearOperator` or matrix.
        k: How many, fewer than its rows.
        which: `"LA"` for the largest, `"LM"` for the largest in magnitude, `"SA"` for the smallest.
        seed: Of the start vector.

    Returns:
        Values and vectors.

    Raises:
        ImportError: If SciPy is not installed.
        ValueError: If `k` or `which` is not one of the above.
    """
    size = _size(operator)
    check_count("k", k)
    if k >= size:
        raise ValueError(f"`k` must be below the {size} rows of the operator, received {k}.")
    check_choice("which", which, ("LA", "LM", "SA"))
    generator = _generator(seed)
    linalg = require("scipy.sparse.linalg", "top_eigenpairs")
    start = generator.normal(size=size).astype(operator.dtype)
    values, vectors = linalg.eigsh(operator, k=k, which=which, v0=start)
    order = np.argsort({"LA": -values, "LM": -np.abs(values), "SA": values}[which])
    return Eigenpairs(values[order], vectors[:, order])


def estimate_trace(
    operator: Any, num_vectors: int = 30, *, method: Method = "hutch++", seed: int = 0
) -> Estimate:
    """The trace of a symmetric operator, from products with random signs.

    Hutchinson (1989): the mean of `v^T A v`. Hutch++ (Meyer et al. 2021, algorithm 1): a third of
    the products finds a subspace that holds the large eigenvalues, a third gives the exact trace
    there, and the last third estimates the rest.

    Args:
        operator: A symmetric `LinearOperator` or matrix.
        num_vectors: Number of products; at least 2, or 6 for Hutch++.
        method: `"hutch++"` or `"hutchinson"`.
        seed: Of the random vectors.

    Returns:
        The estimate. The standard error of Hutch++ is that of the rest, given the subspace.

    Raises:
        ValueError: If an argument is not one of the above.
    """
    basis, images, signs = _draw(operator, num_vectors, method, seed)
    exact = float(np.sum(basis * images))
    signs = signs - basis @ (basis.T @ signs)
    samples = np.sum(signs * _times(operator, signs, "trace"), axis=0)
    return Estimate(exact + float(samples.mean()), _standard_error(samples))


def estimate_diagonal(
    operator: Any, num_vectors: int = 30, *, method: Method = "hutch++", seed: int = 0
) -> Estimate:
    """The diagonal of a symmetric operator, from products with random signs.

    Bekas et al. (2007): the mean of `v * (A v)`, elementwise. With `"hutch++"` the part of A in a
    subspace of large eigenvalues is exact, as in `estimate_trace` (Baston & Nakatsukasa 2022).

    Args:
        operator: A symmetric `LinearOperator` or matrix.
        num_vectors: Number of products; at least 2, or 6 for Hutch++.
        method: `"hutch++"` or `"hutchinson"`.
        seed: Of the random vectors.

    Returns:
        The estimate of each entry, and its standard error.

    Raises:
        ValueError: If an argument is not one of the above.
    """
    basis, images, signs = _draw(operator, num_vectors, method, seed)
    exact = np.sum(basis * images, axis=1)
    products = _times(operator, signs, "diagonal")
    samples = signs * (products - basis @ (images.T @ signs))
    return Estimate(exact + samples.mean(axis=1), _standard_error(samples))


def spectral_density(
    operator: Any, *, num_vectors: int = 5, steps: int = 60, seed: int = 0
) -> SpectralDensity:
    """The distribution of the eigenvalues of a symmetric operator.

    Stochastic Lanczos quadrature (Lin, Saad & Yang 2016): the mean, over random start vectors, of
    the Gauss quadrature that a Lanczos run gives. All basis vectors are orthogonalised against
    all before, twice, so that no eigenvalue is found again and again.

    Args:
        operator: A symmetric `LinearOperator` or matrix.
        num_vectors: Number of start vectors, Gaussian.
        steps: Products for each of them, at most; their basis is in memory.
        seed: Of the start vectors.

    Returns:
        The density, as points with weights.

    Raises:
        ValueError: If a count is not a whole number of at least 1.
    """
    check_count("num_vectors", num_vectors)
    check_count("steps", steps)
    generator = _generator(seed)
    runs = []
    for _ in follow(range(num_vectors), num_vectors, "spectral density, start vectors"):
        start = generator.normal(size=_size(operator))
        diagonal, beside = lanczos(lambda v: operator @ v, start, steps)
        T = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        values, vectors = np.linalg.eigh(T)
        runs.append((values, vectors[0] ** 2))
    points = np.concatenate([values for values, _ in runs])
    weights = np.concatenate([weight for _, weight in runs]) / num_vectors
    return SpectralDensity(points, weights, _size(operator))


def lanczos(
    product: Callable[[np.ndarray], np.ndarray], start: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal and off-diagonal of the tridiagonal matrix of a Lanczos run.

    Args:
        product: Multiplies the symmetric matrix with a vector.
        start: Start vector.
        steps: Products, at most: fewer where the space of the start vector is exhausted.

    Returns:
        Arrays of length m and m - 1.
    """
    steps = min(steps, len(start))
    basis = np.empty((steps, len(start)))
    diagonal, beside = [], []
    vector = start / np.linalg.norm(start)
    for step in range(steps):
        basis[step] = vector
        image = np.asarray(product(vector), np.float64)
        diagonal.append(float(vector @ image))
        known = basis[: step + 1]
        scale = float(np.linalg.norm(image))
        for _ in range(2):
            image = image - known.T @ (known @ image)
        length = float(np.linalg.norm(image))
        if length <= 1e-12 * max(scale, abs(diagonal[-1])) or step == steps - 1:
            break
        beside.append(length)
        vector = image / length
    return np.array(diagonal), np.array(beside)


def _draw(
    operator: Any, num_vectors: int, method: Method, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An orthonormal basis Q (of no columns for Hutchinson), A Q, and the random signs."""
    check_choice("method", method, ("hutchinson", "hutch++"))
    check_count("num_vectors", num_vectors, low=6 if method == "hutch++" else 2)
    size, generator = _size(operator), _generator(seed)

    def signs(count: int) -> np.ndarray:
        return generator.choice([-1.0, 1.0], size=(size, count))

    if method == "hutchinson":
        nothing = np.zeros((size, 0))
        return nothing, nothing, signs(num_vectors)
    third = num_vectors // 3
    count = min(third, size)
    basis, _ = np.linalg.qr(_times(operator, signs(count), "subspace"))
    images = _times(operator, basis, "subspace")
    return basis, images, signs(num_vectors - 2 * third)


def _times(operator: Any, vectors: np.ndarray, label: str) -> np.ndarray:
    columns = follow(vectors.T, vectors.shape[1], f"{label}, products")
    return np.stack([np.asarray(operator @ v, np.float64) for v in columns], axis=1)


def _standard_error(samples: np.ndarray) -> Any:
    error = samples.std(axis=-1, ddof=1) / np.sqrt(samples.shape[-1])
    return float(error) if error.ndim == 0 else error


def _generator(seed: int) -> np.random.Generator:
    check_count("seed", seed, low=0)
    return np.random.default_rng(seed)


def _size(operator: Any) -> int:
    rows, columns = operator.shape
    if rows != columns:
        raise ValueError(f"`operator` must be square, received the shape {operator.shape}.")
    return int(rows)
