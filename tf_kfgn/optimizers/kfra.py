"""KFRA: one recursion on the batch mean of the output curvature gives every factor."""

from __future__ import annotations

from typing import Any

import keras

from tf_kfgn.factors import KFRAEstimator
from tf_kfgn.factors.kfra import MEMORY_LIMIT
from tf_kfgn.numerics.checks import POSITIVE, check_number
from tf_kfgn.optimizers.gauss_newton import GaussNewton


@keras.saving.register_keras_serializable(package="tf_kfgn")
class KFRA(GaussNewton):
    """Optimizer with Kronecker-factored recursive approximation of the Gauss-Newton matrix.

    No target is sampled, and the cost of the factors does not grow with the number of outputs. It
    does grow with the width of each layer: on images of more than a few thousand pixels, KFLR and
    KFAC are cheaper.

    Args:
        *args: The arguments of `GaussNewton`.
        memory_limit: Size in MiB above which an average of the recursion is refused, with a
            message, before it is allocated. Defaults to `2048`.
        **kwargs: The arguments of `GaussNewton`.

    ```python
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse")
    ```

    Reference:
        Botev, Ritter & Barber, "Practical Gauss-Newton Optimisation for Deep Learning", ICML 2017,
        section 3.5.
    """

    def __init__(self, *args: Any, memory_limit: float = MEMORY_LIMIT, **kwargs: Any) -> None:
        """See the class."""
        super().__init__(*args, **kwargs)
        check_number("memory_limit", memory_limit, POSITIVE, optional=False)
        self.memory_limit = memory_limit

    def make_estimator(self) -> KFRAEstimator:
        """See `GaussNewton.make_estimator`."""
        return KFRAEstimator(
            self.approximation,
            max_factor_size=self.max_factor_size,
            memory_limit=self.memory_limit,
        )

    def get_config(self) -> dict[str, Any]:
        """See `GaussNewton.get_config`."""
        return {**super().get_config(), "memory_limit": self.memory_limit}
