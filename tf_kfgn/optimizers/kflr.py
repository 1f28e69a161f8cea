"""KFLR: factors from an exact low-rank root of the output curvature."""

from __future__ import annotations

from typing import Any

import keras

from tf_kfgn.factors import KFLREstimator
from tf_kfgn.factors.kflr import MEMORY_LIMIT
from tf_kfgn.numerics.checks import POSITIVE, check_count, check_number, check_seed
from tf_kfgn.optimizers.gauss_newton import GaussNewton


@keras.saving.register_keras_serializable(package="tf_kfgn")
class KFLR(GaussNewton):
    """Optimizer with Kronecker-factored low-rank approximation of the Gauss-Newton matrix.

    Nothing is sampled; each estimate of the factors costs one backward pass for each output of
    the model, so it suits models with few outputs; with more, `num_columns` bounds the cost.
    Works on any graph of layers.

    Args:
        *args: The arguments of `GaussNewton`.
        num_columns: Backward passes for each estimate: that many random orthonormal combinations
            of the outputs, drawn anew each time, which make the factors right on average. Between
            KFAC, which draws for each example on its own, and exact KFLR. Defaults to `None`: all
            outputs.
        memory_limit: Size in MiB that the cotangents of columns going backwards side by side may
            take. Defaults to `256`.
        seed: An integer that the combinations are drawn from. Defaults to `0`.
        **kwargs: The arguments of `GaussNewton`.

    Reference:
        Botev, Ritter & Barber, "Practical Gauss-Newton Optimisation for Deep Learning", ICML 2017,
        section 3.4.
    """

    def __init__(
        self,
        *args: Any,
        num_columns: int | None = None,
        memory_limit: float = MEMORY_LIMIT,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        """See the class."""
        super().__init__(*args, **kwargs)
        check_count("num_columns", num_columns, optional=True)
        check_number("memory_limit", memory_limit, POSITIVE, optional=False)
        check_seed(seed)
        self.num_columns = num_columns
        self.memory_limit = memory_limit
        self._seed = seed

    @property
    def seed(self) -> int:
        """See `GaussNewton.seed`."""
        return self._seed

    def make_estimator(self) -> KFLREstimator:
        """See `GaussNewton.make_estimator`."""
        return KFLREstimator(
            self.approximation,
            self.num_columns,
            max_factor_size=self.max_factor_size,
            memory_limit=self.memory_limit,
        )

    def get_config(self) -> dict[str, Any]:
        """See `GaussNewton.get_config`."""
        return {
            **super().get_config(),
            "num_columns": self.num_columns,
            "memory_limit": self.memory_limit,
            "seed": self.seed,
        }
