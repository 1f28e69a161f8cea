"""KFRA: one recursion on the batch mean of the output curvature gives every factor."""

from __future__ import annotations

import keras

from tf_kfgn.factors import KFRAEstimator
from tf_kfgn.optimizers.gauss_newton import GaussNewton


@keras.saving.register_keras_serializable(package="tf_kfgn")
class KFRA(GaussNewton):
    """Optimizer with Kronecker-factored recursive approximation of the Gauss-Newton matrix.

    Nothing is sampled, and the cost of the factors does not grow with the number of outputs.
    Covers chains of recording layers. Takes the arguments of `GaussNewton`.

    ```python
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse")
    ```

    Reference:
        Botev, Ritter & Barber, "Practical Gauss-Newton Optimisation for Deep Learning", ICML 2017,
        section 3.5.
    """

    def make_estimator(self) -> KFRAEstimator:
        """See `GaussNewton.make_estimator`."""
        return KFRAEstimator(self.approximation)
