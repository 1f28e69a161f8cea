"""KFLR: Kronecker factors from an exact low-rank root of the output curvature.

Botev, Ritter & Barber (2017), section 3.4: with S S^T = H_L, one cotangent for each column of S.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_kfgn.factors.estimator import CotangentEstimator, Uses
from tf_kfgn.losses import Likelihood
from tf_kfgn.losses.precision import at_least_float32
from tf_kfgn.tape import CurvatureTape


class KFLREstimator(CotangentEstimator):
    """G is the exact second moment of the back-propagated columns of S."""

    def output_factors(
        self, tape: CurvatureTape, uses: Uses, seed: tf.Tensor
    ) -> dict[keras.layers.Layer, tf.Tensor]:
        """See `FactorEstimator.output_factors`: one backward pass for each output."""
        del seed
        totals = [0.0] * len(uses)
        for likelihood in tape.likelihoods:

            def add_column(
                index: tf.Tensor, *sums: tf.Tensor, likelihood: Likelihood = likelihood
            ) -> tuple[tf.Tensor, ...]:
                new = self.factors_of_column(
                    tape, uses, likelihood.outputs, likelihood.column(index)
                )
                return (index + 1, *(a + b for a, b in zip(sums, new, strict=True)))

            zeros = [
                tf.zeros([operation.out_features] * 2, at_least_float32(operation.output.dtype))
                for operation, *_ in uses.values()
            ]
            _, *sums = tf.while_loop(
                lambda index, *_, likelihood=likelihood: index < likelihood.num_columns,
                add_column,
                (tf.constant(0), *zeros),
                parallel_iterations=1,
            )
            totals = [total + new for total, new in zip(totals, sums, strict=True)]
        return dict(zip(uses, totals, strict=True))
