"""KFAC: factors from gradients for sampled targets."""

from __future__ import annotations

import random
from typing import Any

import keras

from tf_kfgn.factors import KFACEstimator
from tf_kfgn.numerics.checks import check_seed
from tf_kfgn.optimizers.gauss_newton import GaussNewton


@keras.saving.register_keras_serializable(package="tf_kfgn")
class KFAC(GaussNewton):
    """Optimizer with Kronecker-factored approximate curvature, from sampled targets.

    Each estimate of the factors costs `num_samples` backward passes. Works on any graph of layers.

    Args:
        *args: The arguments of `GaussNewton`.
        num_samples: Cotangents drawn for each example. Defaults to `1`, after the paper.
        seed: An integer, or None for one drawn from Python's generator, which
            `keras.utils.set_random_seed` seeds. The factors of update t depend on `(seed, t)`
            alone, so a resumed run draws what the whole run would have drawn.
        **kwargs: The arguments of `GaussNewton`.

    Raises:
        ValueError: If `num_samples` or `seed` is not an integer, or another argument is out of
            its range.

    Reference:
        Martens & Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate
        Curvature", ICML 2015.
    """

    def __init__(
        self, *args: Any, num_samples: int = 1, seed: int | None = None, **kwargs: Any
    ) -> None:
        """See the class."""
        super().__init__(*args, **kwargs)
        if seed is None:
            seed = random.randint(0, 2**31 - 1)
        check_seed(seed)
        self._seed = seed
        self.num_samples = num_samples
        self.make_estimator()  # refuses a wrong num_samples now rather than in the first step

    @property
    def seed(self) -> int:
        """See `GaussNewton.seed`."""
        return self._seed

    def make_estimator(self) -> KFACEstimator:
        """See `GaussNewton.make_estimator`."""
        return KFACEstimator(
            self.approximation, self.num_samples, max_factor_size=self.max_factor_size
        )

    def get_config(self) -> dict[str, Any]:
        """See `GaussNewton.get_config`."""
        return {**super().get_config(), "num_samples": self.num_samples, "seed": self.seed}
