"""KFAC: Kronecker factors from sampled gradients.

Martens & Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", ICML
2015. What is sampled is a cotangent of the outputs whose covariance is the Gauss-Newton curvature
of the loss in them, so that the expectation over the draws is KFLR. For categorical, Bernoulli and
squared-error losses it is the gradient for a target that the model itself draws, as in the paper.
For Poisson losses, and for all that are differentiated or state their own curvature, no target is
drawn: it is a Gaussian vector with that covariance. Where the outputs are no natural parameters of
an exponential family, gradients for drawn targets would have the Fisher matrix as their covariance,
which is another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tf_kfgn.factors.cotangents import CotangentEstimator
from tf_kfgn.factors.estimator import OutputFactors, Uses, registered
from tf_kfgn.numerics.checks import check_count, check_seed
from tf_kfgn.numerics.random import fold_in
from tf_kfgn.numerics.sums import ordered_sum
from tf_kfgn.recording.tape import CurvatureTape


@registered("kfac")
@dataclasses.dataclass(frozen=True, eq=False)
class KFACEstimator(CotangentEstimator):
    """G is the second moment of a few sampled cotangents for each example.

    Attributes:
        num_samples: Cotangents drawn for each example.
        seed: Seed of the draws.
    """

    num_samples: int = 1
    seed: int = dataclasses.field(default=0, kw_only=True)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_samples", self.num_samples)
        check_seed(self.seed)

    @override
    def passes(self, num_outputs: int) -> int:
        return self.num_samples

    @override
    def output_curvature(
        self, tape: CurvatureTape, uses: Uses, seed: tf.Tensor, variables: Sequence[Any]
    ) -> OutputFactors:
        """The factor G of each matrix, and diagonals, from one backward pass for each sample."""
        draws = []
        for output, likelihood in enumerate(tape.likelihoods):
            for sample in range(self.num_samples):
                index = output * self.num_samples + sample
                column = likelihood.sample(fold_in(seed, index))
                draws.append(
                    self.curvature_of_column(tape, uses, likelihood.recorded, column, variables)
                )
        means = [ordered_sum(parts) / self.num_samples for parts in zip(*draws, strict=True)]
        return self.curvature_of(means, uses)
