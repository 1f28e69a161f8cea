"""KFLR: Kronecker factors from an exact low-rank root of the output curvature.

Botev, Ritter & Barber (2017), section 3.4: with S S^T = H_L, one cotangent for each column of S.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tf_kfgn import replicas
from tf_kfgn.factors.cotangents import CotangentEstimator, random_signs
from tf_kfgn.factors.estimator import OutputFactors, Uses, num_used_positions, registered
from tf_kfgn.losses import Likelihood
from tf_kfgn.numerics import random
from tf_kfgn.numerics.checks import POSITIVE, check_count, check_number, check_seed
from tf_kfgn.recording.active import SEVERAL_COTANGENTS
from tf_kfgn.recording.tape import CurvatureTape

MEMORY_LIMIT = 256
_MIB = 2**20


@registered("kflr")
@dataclasses.dataclass(frozen=True, eq=False)
class KFLREstimator(CotangentEstimator):
    """G is the exact second moment of the back-propagated columns of S.

    With `num_columns` below the number K of columns, S is replaced by `sqrt(K / m) S Q` with a
    random orthonormal Q of m columns. The expectation stays, and with m = K all of it.

    Attributes:
        num_columns: Random orthonormal columns for each output of the model; None for all columns
            of the root, which is exact.
        memory_limit: Columns go backwards side by side as long as their cotangents stay below this
            size in MiB, and one by one where a single one is larger.
        seed: Seed of the columns.
    """

    num_columns: int | None = None
    memory_limit: float = dataclasses.field(default=MEMORY_LIMIT, kw_only=True)
    seed: int = dataclasses.field(default=0, kw_only=True)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_columns", self.num_columns, optional=True)
        check_number("memory_limit", self.memory_limit, POSITIVE, optional=False)
        check_seed(self.seed)

    @override
    def passes(self, num_outputs: int) -> int:
        return num_outputs if self.num_columns is None else min(self.num_columns, num_outputs)

    @override
    def columns_at_once(self, size: float, num_outputs: int) -> float:
        return max(1.0, min(self.memory_limit * _MIB / size, float(self.passes(num_outputs))))

    @override
    def output_curvature(
        self, tape: CurvatureTape, uses: Uses, seed: tf.Tensor, variables: Sequence[Any]
    ) -> OutputFactors:
        """The factor G of each matrix, and diagonals, from one backward pass for each column."""
        totals = self.zeros(uses, variables)
        positions = [num_used_positions(operations) for operations in uses.values()]
        for output, likelihood in enumerate(tape.likelihoods):
            columns = Columns(likelihood, self.num_columns, random.fold_in(seed, output))
            vectorisable = all(operation.vectorisable for operation in tape.operations)
            chunk = self._chunk(tape, columns) if vectorisable else 1

            def products(index: tf.Tensor, columns: Columns = columns) -> list[tf.Tensor]:
                column, outputs = columns.column(index), columns.likelihood.recorded
                with SEVERAL_COTANGENTS.using(True):
                    return self.products_of_column(
                        tape, uses, outputs, column, variables, positions
                    )

            def with_diagonals(
                found: list[tf.Tensor], outputs: tf.Tensor = likelihood.recorded
            ) -> list[tf.Tensor]:
                return self.with_diagonals(found, uses, outputs)

            def add_chunk(
                start: tf.Tensor,
                *sums: tf.Tensor,
                chunk: int | tf.Tensor = chunk,
                products: Any = products,
                with_diagonals: Any = with_diagonals,
            ) -> list[tf.Tensor]:
                new = tf.vectorized_map(products, start + tf.range(chunk), warn=False)
                new = with_diagonals(new)
                totals = [old + tf.reduce_sum(n, 0) for old, n in zip(sums, new, strict=True)]
                return [start + chunk, *totals]

            def add_one(
                index: tf.Tensor,
                *sums: tf.Tensor,
                products: Any = products,
                with_diagonals: Any = with_diagonals,
            ) -> list[tf.Tensor]:
                new = with_diagonals(products(index))
                return [index + 1, *(old + n for old, n in zip(sums, new, strict=True))]

            # Some of TensorFlow's derivatives cannot be vectorised over no examples at all.
            count = tf.where(tf.size(likelihood.outputs) > 0, columns.count, 0)
            _, *totals = replicas.repeated(
                lambda index, *_, count=count: index < count,
                add_chunk if vectorisable else add_one,
                [tf.constant(0), *totals],
            )
        return self.curvature_of(totals, uses)

    def _chunk(self, tape: CurvatureTape, columns: Columns) -> int | tf.Tensor:
        """How many columns go backwards side by side; a number where all shapes are known."""
        outputs = [operation.output for operation in tape.operations]
        if all(tensor.shape.is_fully_defined() for tensor in outputs):
            size = sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in outputs)
            return int(min(max(self.memory_limit * _MIB / max(size, 1), 1), columns.count))
        sizes = [tf.size(tensor, tf.int64) * tensor.dtype.size for tensor in outputs]
        fitting = self.memory_limit * _MIB / tf.cast(tf.add_n(sizes), tf.float64)
        return tf.cast(tf.clip_by_value(fitting, 1, columns.count), tf.int32)


class Columns:
    """Columns of a root of the per-example Hessian, all of them or a random orthonormal set.

    Attributes:
        likelihood: Whose root it is.
        count: Number of columns.
    """

    def __init__(self, likelihood: Likelihood, count: int | None, seed: tf.Tensor) -> None:
        """Take all columns, or draw `count` directions in their space if there are more."""
        self.likelihood = likelihood
        self._seed = seed
        size = likelihood.num_columns
        self._directions = None
        self.count = size
        if count is not None and count < size:
            self.count = count
            dtype = likelihood.outputs.dtype
            normal = random.normal((size, count), random.fold_in(seed, size), dtype)
            orthonormal, _ = tf.linalg.qr(normal)
            scale = tf.sqrt(tf.constant(size / count, dtype))
            self._directions = scale * orthonormal

    def column(self, index: tf.Tensor) -> tf.Tensor:
        """Column `index`, shaped like the outputs, with random signs of the examples.

        Zero for an index that is not below `count`.
        """
        likelihood = self.likelihood
        if self._directions is None:
            column = likelihood.column(index)
        else:
            direction = tf.gather(self._directions, tf.minimum(index, self.count - 1), axis=1)
            column = likelihood.root_product(
                tf.reshape(direction, (1, *likelihood.outputs.shape[1:]))
            )
        signed = random_signs(column, random.fold_in(self._seed, index))
        return signed * tf.cast(index < self.count, signed.dtype)
