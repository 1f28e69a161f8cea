"""KFLR: factors from an exact low-rank root of the output curvature."""

from __future__ import annotations

import keras

from tf_kfgn.factors import KFLREstimator
from tf_kfgn.optimizers.gauss_newton import GaussNewton


@keras.saving.register_keras_serializable(package="tf_kfgn")
class KFLR(GaussNewton):
    """Optimizer with Kronecker-factored low-rank approximation of the Gauss-Newton matrix.

    Nothing is sampled; each estimate of the factors costs one backward pass for each output of
    the model, so it suits models with few outputs. Works on any graph of layers. Takes the
    arguments of `GaussNewton`.

    Reference:
        Botev, Ritter & Barber, "Practical Gauss-Newton Optimisation for Deep Learning", ICML 2017,
        section 3.4.
    """

    def make_estimator(self) -> KFLREstimator:
        """See `GaussNewton.make_estimator`."""
        return KFLREstimator(self.approximation)
