"""KFAC: Kronecker factors from gradients for targets that the model itself draws.

Martens & Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", ICML
2015. Its expectation over the draws is KFLR.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_kfgn.factors.estimator import CotangentEstimator, Uses
from tf_kfgn.factors.sharing import Approximation
from tf_kfgn.numerics.random import fold_in
from tf_kfgn.recording.tape import CurvatureTape


class KFACEstimator(CotangentEstimator):
    """G is the second moment of a few sampled cotangents for each example."""

    def __init__(
        self,
        approximation: Approximation = "expand",
        num_samples: int = 1,
        *,
        max_factor_size: int | None = None,
    ) -> None:
        """Choose how shared weights and how many samples enter.

        Args:
            approximation: See `FactorEstimator`.
            num_samples: Cotangents drawn for each example.
            max_factor_size: See `FactorEstimator`.

        Raises:
            ValueError: If `num_samples` is not a positive integer.
        """
        super().__init__(approximation, max_factor_size=max_factor_size)
        check_count("num_samples", num_samples)
        self.num_samples = num_samples

    def output_curvature(
        self, tape: CurvatureTape, uses: Uses, seed: tf.Tensor, variables: Sequence[Any]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """See `FactorEstimator.output_curvature`: one backward pass for each sample."""
        draws = []
        for output, likelihood in enumerate(tape.likelihoods):
            for sample in range(self.num_samples):
                index = output * self.num_samples + sample
                column = likelihood.sample(fold_in(seed, index))
                draws.append(
                    self.curvature_of_column(tape, uses, likelihood.recorded, column, variables)
                )
        means = [tf.add_n(parts) / self.num_samples for parts in zip(*draws, strict=True)]
        return means[: len(uses)], means[len(uses) :]


def check_count(name: str, value: Any) -> None:
    """Check that an argument counts something.

    Raises:
        ValueError: If it is not a positive integer.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, received {value!r}.")
