"""The constructor arguments of `HessianFree` that say how it searches, and what preconditions."""

from __future__ import annotations

import dataclasses
from typing import Any

from tf_kfgn.factors import FactorEstimator
from tf_kfgn.factors.estimator import ESTIMATORS
from tf_kfgn.factors.sharing import Approximation
from tf_kfgn.numerics.checks import POSITIVE, check_choice, check_count, check_number
from tf_kfgn.optimizers.conjugate_gradients import spaced_numbers


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How CG searches; `HessianFree` describes the arguments.

    Raises:
        ValueError: If an argument is out of its range.
    """

    max_cg_iterations: int
    cg_tolerance: float
    warm_start: float
    backtracking: bool
    curvature_fraction: float

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        check_count("max_cg_iterations", self.max_cg_iterations)
        check_number("cg_tolerance", self.cg_tolerance, 0.0, 1.0, optional=False)
        check_number("warm_start", self.warm_start, 0.0, optional=False)
        if self.warm_start > 1:
            raise ValueError(f"`warm_start` must be at most 1, received {self.warm_start!r}.")
        if not isinstance(self.backtracking, bool):
            raise ValueError(
                f"`backtracking` must be True or False, received {self.backtracking!r}."
            )
        check_number("curvature_fraction", self.curvature_fraction, POSITIVE, optional=False)
        if self.curvature_fraction > 1:
            raise ValueError(
                f"`curvature_fraction` must be at most 1, received {self.curvature_fraction!r}."
            )

    @property
    def kept_at(self) -> list[int]:
        """Numbers of the iterates that backtracking may go back to."""
        return spaced_numbers(self.max_cg_iterations) if self.backtracking else []


@dataclasses.dataclass(frozen=True)
class Preconditioning:
    """What preconditions CG; `HessianFree` describes the arguments.

    Raises:
        ValueError: If there is no such preconditioner, or it has no such argument.
    """

    preconditioner: str | None
    approximation: Approximation
    max_factor_size: int | None
    num_samples: int | None
    num_columns: int | None
    memory_limit: float | None
    seed: int

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        check_choice("preconditioner", self.preconditioner, [None, *sorted(ESTIMATORS)])
        kind = self._estimator_class
        own = {field.name for field in dataclasses.fields(kind)}
        for name in ("num_samples", "num_columns", "memory_limit"):
            if getattr(self, name) is not None and (self.preconditioner is None or name not in own):
                raise ValueError(
                    f"`{name}` is no argument of the preconditioner {self.preconditioner!r}. Leave "
                    "it out, or take another `preconditioner`."
                )

    def estimator(self) -> FactorEstimator:
        """What estimates the factors; without a preconditioner it is never asked.

        Raises:
            ValueError: If an argument is out of its range.
        """
        kind = self._estimator_class
        given = {name: value for name, value in self.config().items() if value is not None}
        fields = {field.name for field in dataclasses.fields(kind)}
        return kind(**{name: value for name, value in given.items() if name in fields})

    def config(self) -> dict[str, Any]:
        """The arguments by name."""
        return dataclasses.asdict(self)

    @property
    def _estimator_class(self) -> type[FactorEstimator]:
        return ESTIMATORS[self.preconditioner or "kfac"]
