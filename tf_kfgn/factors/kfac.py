"""KFAC: Kronecker factors from gradients for targets that the model itself draws.

Martens & Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", ICML
2015. Its expectation over the draws is KFLR.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_kfgn.factors.estimator import CotangentEstimator, Uses
from tf_kfgn.losses.random import fold_in
from tf_kfgn.tape import CurvatureTape


class KFACEstimator(CotangentEstimator):
    """G is the second moment of a few sampled cotangents for each example."""

    def __init__(self, approximation: str = "expand", num_samples: int = 1) -> None:
        """Choose how shared weights and how many samples enter.

        Args:
            approximation: `"expand"` or `"reduce"`.
            num_samples: Cotangents drawn for each example.

        Raises:
            ValueError: If `num_samples` is not a positive integer.
        """
        super().__init__(approximation)
        whole = isinstance(num_samples, int) and not isinstance(num_samples, bool)
        if not whole or num_samples < 1:
            raise ValueError(f"`num_samples` must be a positive integer, received {num_samples!r}.")
        self.num_samples = num_samples

    def output_factors(
        self, tape: CurvatureTape, uses: Uses, seed: tf.Tensor
    ) -> dict[keras.layers.Layer, tf.Tensor]:
        """See `FactorEstimator.output_factors`: one backward pass for each sample."""
        draws = []
        for output, likelihood in enumerate(tape.likelihoods):
            for sample in range(self.num_samples):
                index = output * self.num_samples + sample
                column = likelihood.sample(fold_in(seed, index))
                draws.append(self.factors_of_column(tape, uses, likelihood.outputs, column))
        means = [tf.add_n(factors) / self.num_samples for factors in zip(*draws, strict=True)]
        return dict(zip(uses, means, strict=True))
