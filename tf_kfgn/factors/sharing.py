"""Weight sharing: how the shared positions of one layer enter its Kronecker factors.

Rows have shape `(batch_size, shared, [groups,] features)`; N is the batch size, T the number of
shared positions. The gradient of one example is the sum of `a_t g_t^T` over positions, with input
rows a and cotangents g, so that its block is the mean of `sum_s sum_t (a_s a_t^T) (x) (g_s g_t^T)`.
Approximations differ in what they take of the pairs `s != t`:

- `"expand"`: nothing, as if the cotangents of different positions were uncorrelated;
- `"reduce"`: all, after averaging inputs and summing cotangents each for itself;
- `"correlated"`: as much as the cotangents correlate. Where inputs and cotangents are independent
  and `E[g_s g_t^T] = ρ G` for `s != t`, with `G = E[g_t g_t^T]`, the block is exactly

      ((1 - ρ) E[sum_t a_t a_t^T] + ρ E[(sum_t a_t) (sum_t a_t)^T]) (x) G.

  ρ is measured with each estimate, see `tf_kfgn.factors.correlation`. At 0 this is `"expand"`,
  and at 1, where all positions have the same cotangent, it is `"reduce"`.

For T = 1 all are the same. The first two are named after Eschenhagen et al., "Kronecker-Factored
Approximate Curvature for Modern Neural Network Architectures", NeurIPS 2023.

A factor has shape `([groups,] features, features)`, or `([groups,] features, 1)` where only its
diagonal is kept.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import tensorflow as tf
from typing_extensions import override

from tf_kfgn.numerics.moments import batch_size
from tf_kfgn.numerics.sums import ordered_sum

Approximation = str | Mapping[str, str]

# Of every layer that is given none.
DEFAULT = "correlated"


class WeightSharing(abc.ABC):
    """Turns rows, and KFRA's averages, into Kronecker factors.

    Attributes:
        correlates: Whether A depends on how the cotangents of different positions correlate; what
            the methods give is that of uncorrelated ones then.
        positions_alone: Whether A of uncorrelated positions is the sum of the outer products of
            single rows over the number of examples.
    """

    correlates: ClassVar[bool] = False
    positions_alone: ClassVar[bool] = False

    @abc.abstractmethod
    def input_factor(
        self, rows: tf.Tensor, diagonal: bool = False, used: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The factor A from input rows.

        Args:
            rows: Input rows.
            diagonal: Whether to keep nothing but the diagonal.
            used: 1 for each position that meets the weights, 0 for one that a mask skips, shape
                `(batch_size, shared)`; None if all do. The others do not count.
        """

    @abc.abstractmethod
    def token_factor(
        self, tokens: tf.Tensor, size: int, dtype: tf.DType, diagonal: bool = True
    ) -> tf.Tensor:
        """The factor A for one-hot input rows.

        Args:
            tokens: Place of the 1 in each row, shape `(batch_size, shared)`.
            size: Length of a row.
            dtype: Type of the factor.
            diagonal: Whether to keep nothing but the diagonal.
        """

    @abc.abstractmethod
    def output_factor(
        self,
        rows: tf.Tensor,
        diagonal: bool = False,
        positions: tf.Tensor | None = None,
        others: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The factor G from the rows of one cotangent.

        Args:
            rows: Its rows; zero at positions that are not used.
            diagonal: Whether to keep nothing but the diagonal.
            positions: How many positions of the batch meet the weights; None if all do.
            others: Rows of another cotangent, whose products with the first are taken.
        """

    @abc.abstractmethod
    def output_factor_of_uses(
        self, factors: Sequence[tf.Tensor], positions: Sequence[int]
    ) -> tf.Tensor:
        """The factor G from those of single uses of a layer, without what is between the uses.

        Args:
            factors: The factor of each use.
            positions: Number of positions of each use.
        """

    @abc.abstractmethod
    def output_factor_of_averages(
        self,
        averages: Mapping[tuple[int, int], tf.Tensor],
        positions: int,
        diagonal: bool = False,
    ) -> tf.Tensor:
        """The factor G from averages over the rows of a layer's uses.

        Args:
            averages: For each pair of uses with any curvature between them, the average of shape
                `(shared, [groups,] features, shared', [groups,] features)`; or their sum over
                pairs of positions, as if there was a single one.
            positions: Number of positions of all uses.
            diagonal: Whether to keep nothing but the diagonal.
        """


class Expand(WeightSharing):
    """Every position counts as an example: exact for a loss on each position of a linear layer."""

    positions_alone = True

    @override
    def input_factor(
        self, rows: tf.Tensor, diagonal: bool = False, used: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The factor A, `1/N sum_n sum_t a a^T`."""
        rows = rows if used is None else rows * _beside(rows, used)
        return _gram(_all_positions(rows), diagonal) / batch_size(rows)

    @override
    def token_factor(
        self, tokens: tf.Tensor, size: int, dtype: tf.DType, diagonal: bool = True
    ) -> tf.Tensor:
        """The factor A, which is diagonal: how often each token occurs in an example."""
        counts = tf.math.unsorted_segment_sum(
            tf.ones(tf.size(tokens), dtype), tf.reshape(tokens, (-1,)), size
        )
        means = counts / tf.cast(tf.shape(tokens)[0], dtype)
        return means[:, None] if diagonal else tf.linalg.diag(means)

    @override
    def output_factor(
        self,
        rows: tf.Tensor,
        diagonal: bool = False,
        positions: tf.Tensor | None = None,
        others: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The factor G, `1/(N T) sum_n sum_t g g^T`; N T counts the positions that are used."""
        flat = _all_positions(rows)
        pairs = _gram(flat, diagonal, None if others is None else _all_positions(others))
        if positions is None:
            return pairs / batch_size(flat)
        return pairs / tf.maximum(tf.cast(positions, rows.dtype), 1)

    @override
    def output_factor_of_uses(
        self, factors: Sequence[tf.Tensor], positions: Sequence[int]
    ) -> tf.Tensor:
        """The factor G: the mean over all positions."""
        parts = [factor * count for factor, count in zip(factors, positions, strict=True)]
        return ordered_sum(parts) / sum(positions)

    @override
    def output_factor_of_averages(
        self,
        averages: Mapping[tuple[int, int], tf.Tensor],
        positions: int,
        diagonal: bool = False,
    ) -> tf.Tensor:
        """The factor G: the mean of the diagonal blocks of the averages."""
        own = [average for (use, other), average in averages.items() if use == other]
        total = ordered_sum([_block_sum(average, "s", "s") for average in own])
        return _kept(total, diagonal) / tf.cast(positions, total.dtype)


class Reduce(WeightSharing):
    """Inputs are averaged and cotangents summed: exact for a layer before a global average."""

    @override
    def input_factor(
        self, rows: tf.Tensor, diagonal: bool = False, used: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The factor A, `1/N sum_n a a^T` after averaging a over t."""
        if used is None:
            means = tf.reduce_mean(rows, axis=1)
        else:
            weights = _beside(rows, used)
            count = tf.maximum(tf.reduce_sum(weights, axis=1), 1)
            means = tf.reduce_sum(rows * weights, axis=1) / count
        return _gram(means, diagonal) / batch_size(rows)

    @override
    def token_factor(
        self, tokens: tf.Tensor, size: int, dtype: tf.DType, diagonal: bool = True
    ) -> tf.Tensor:
        """The factor A: second moments of the shares that tokens have of an example."""
        moment = _moment_of_counts(tokens, size, dtype, diagonal)
        return moment / tf.cast(tf.shape(tokens)[1], dtype) ** 2

    @override
    def output_factor(
        self,
        rows: tf.Tensor,
        diagonal: bool = False,
        positions: tf.Tensor | None = None,
        others: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The factor G, `1/N sum_n g g^T` after summing g over t."""
        del positions
        sums = None if others is None else tf.reduce_sum(others, axis=1)
        return _gram(tf.reduce_sum(rows, axis=1), diagonal, sums) / batch_size(rows)

    @override
    def output_factor_of_uses(
        self, factors: Sequence[tf.Tensor], positions: Sequence[int]
    ) -> tf.Tensor:
        """The factor G: the sum."""
        del positions
        return ordered_sum(list(factors))

    @override
    def output_factor_of_averages(
        self,
        averages: Mapping[tuple[int, int], tf.Tensor],
        positions: int,
        diagonal: bool = False,
    ) -> tf.Tensor:
        """The factor G: the sum of all blocks of the averages."""
        del positions
        return _kept(ordered_sum([_block_sum(a, "s", "t") for a in averages.values()]), diagonal)


class Correlated(Expand):
    """Positions are as alike as their cotangents: see `with_sums` and `with_counts`."""

    correlates = True


def with_sums(apart: tf.Tensor, sums: tf.Tensor, correlation: tf.Tensor) -> tf.Tensor:
    """A of positions that correlate, from that of positions that do not.

    Args:
        apart: That of `"expand"`, or its diagonal as a column.
        sums: Input rows summed over the positions of each example, `(n, [groups,] features)`.
        correlation: ρ, shape `([groups,] 1, 1)`.
    """
    return _between(apart, _gram(sums, _is_column(apart)) / batch_size(sums), correlation)


def with_counts(apart: tf.Tensor, tokens: tf.Tensor, correlation: tf.Tensor) -> tf.Tensor:
    """The same of one-hot rows, whose sums count tokens.

    Args:
        apart: As for `with_sums`.
        tokens: As for `WeightSharing.token_factor`.
        correlation: As for `with_sums`.
    """
    moment = _moment_of_counts(tokens, apart.shape[-2], apart.dtype, _is_column(apart))
    return _between(apart, moment, correlation)


_APPROXIMATIONS: dict[str, WeightSharing] = {
    "correlated": Correlated(),
    "expand": Expand(),
    "reduce": Reduce(),
}


class Sharing:
    """The approximation of every layer.

    Args:
        approximation: `"correlated"`, `"expand"` or `"reduce"`, or one of these for each name of a
            layer; layers that are not named are `DEFAULT`.

    Raises:
        ValueError: If some name is none of these.
    """

    def __init__(self, approximation: Approximation = DEFAULT) -> None:
        """Read the names, which the class describes."""
        self._named = dict(approximation) if isinstance(approximation, Mapping) else {}
        self._default = DEFAULT if isinstance(approximation, Mapping) else approximation
        for chosen in (self._default, *self._named.values()):
            if not isinstance(chosen, str) or chosen not in _APPROXIMATIONS:
                raise ValueError(
                    f"`approximation` must be one of {sorted(_APPROXIMATIONS)}, or a dictionary "
                    f"from names of layers to these, received {approximation!r}."
                )

    def check_names(self, layers: Collection[str]) -> None:
        """Refuse names of layers that are not among those of a model.

        Args:
            layers: Names of the layers with a weight matrix.

        Raises:
            ValueError: If a name is not one of these.
        """
        unknown = [name for name in self._named if name not in layers]
        if unknown:
            raise ValueError(
                f"`approximation` names {unknown}, but the layers of the model that have a weight "
                f"matrix are {sorted(layers)}."
            )

    def of_layer(self, name: str) -> WeightSharing:
        """The approximation of the layer of that name."""
        return _APPROXIMATIONS[self._named.get(name, self._default)]


def _all_positions(rows: tf.Tensor) -> tf.Tensor:
    return tf.reshape(rows, (-1, *rows.shape[2:]))


def _beside(rows: tf.Tensor, used: tf.Tensor) -> tf.Tensor:
    """A number for each position, as a factor of rows."""
    shape = [*tf.unstack(tf.shape(used)), *[1] * (rows.shape.rank - 2)]
    return tf.cast(tf.reshape(used, shape), rows.dtype)


def _moment_of_counts(tokens: tf.Tensor, size: int, dtype: tf.DType, diagonal: bool) -> tf.Tensor:
    """`1/N sum_n c c^T`, c counting each token in an example; or its diagonal as a column."""
    examples = tf.shape(tokens, tokens.dtype)[0]
    if diagonal:  # c² is c, summed over the occurrences
        equal = tf.cast(tokens[:, :, None] == tokens[:, None, :], dtype)
        counts = tf.reshape(tf.reduce_sum(equal, axis=2), (-1,))
        sums = tf.math.unsorted_segment_sum(counts, tf.reshape(tokens, (-1,)), size)
        return sums[:, None] / tf.cast(examples, dtype)
    places = tf.reshape(size * tf.range(examples)[:, None] + tokens, (-1,))
    counts = tf.math.unsorted_segment_sum(tf.ones(tf.size(tokens), dtype), places, size * examples)
    return _gram(tf.reshape(counts, (-1, size)), diagonal) / tf.cast(examples, dtype)


def _is_column(factor: tf.Tensor) -> bool:
    """Whether a factor is the diagonal of a larger one."""
    return bool(factor.shape[-1] == 1 < factor.shape[-2])


def _between(apart: tf.Tensor, together: tf.Tensor, correlation: tf.Tensor) -> tf.Tensor:
    share = tf.cast(correlation, apart.dtype)
    return (1 - share) * apart + share * together


def _gram(rows: tf.Tensor, diagonal: bool, others: tf.Tensor | None = None) -> tf.Tensor:
    """`X^T Y` of rows of shape `(n, [groups,] features)`, or its diagonal as a column.

    Y is X by default.
    """
    others = rows if others is None else others
    if diagonal:
        return tf.reduce_sum(rows * others, axis=0)[..., None]
    if rows.shape.rank == 3:
        rows, others = (tf.transpose(x, (1, 0, 2)) for x in (rows, others))
    return tf.matmul(rows, others, transpose_a=True)


def _block_sum(average: tf.Tensor, first: str, second: str) -> tf.Tensor:
    """Sum of the blocks of pairs of positions, within each group."""
    group = "g" if average.shape.rank == 6 else ""
    return tf.einsum(f"{first}{group}i{second}{group}j->{group}ij", average)


def _kept(factor: tf.Tensor, diagonal: bool) -> tf.Tensor:
    return tf.linalg.diag_part(factor)[..., None] if diagonal else factor
