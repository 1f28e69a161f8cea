"""What `recommend` answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from tf_kfgn.analysis.text_table import Column, text_table
from tf_kfgn.optimizers import KFAC, KFLR

METHODS: Mapping[str, Any] = {"KFLR": KFLR, "KFAC": KFAC}

_COLUMNS = (
    Column("method"),
    Column("update / gradient", number=True),
    Column("memory, MiB", number=True),
    Column("why not", folded=True),
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What one of the three methods would take.

    Attributes:
        cost: Floating-point operations of one update, gradient included, as a multiple of those of
            the gradient alone: an average over the periods of factors and inverses. None if the
            method cannot be used.
        memory_mib: What the optimizer remembers, and what new factors need besides, in MiB; None
            if the method cannot be used.
        problem: Why it cannot be used, or empty.
    """

    cost: float | None
    memory_mib: float | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The optimizer that fits a model and its loss, and why; prints as a table.

    Attributes:
        name: `"KFLR"`, `"KFAC"`, or `"Adam"` where a first-order method fits better.
        method: The best of the three, even if Adam fits better; None if none can be used.
        reasons: Why, a sentence each.
        candidates: What each of the three would take.
        batch_size: Examples in a batch, for which this holds.
    """

    name: str
    method: str | None
    reasons: tuple[str, ...]
    candidates: Mapping[str, Candidate]
    batch_size: int

    def optimizer(self, **kwargs: Any) -> keras.optimizers.Optimizer:
        """A new optimizer of the recommended kind.

        Args:
            **kwargs: Arguments of its class; for Adam those of `keras.optimizers.Adam`.
        """
        kind: Any = METHODS.get(self.name, keras.optimizers.Adam)
        return kind(**kwargs)

    @property
    def line(self) -> str:
        """The recommendation and its reasons in one line."""
        return f"Recommended: {self.name}. {' '.join(self.reasons)}"

    def __str__(self) -> str:
        """The table of the candidates, then the recommendation and its reasons."""
        lines = [
            (
                name,
                "" if one.cost is None else f"{one.cost:.1f}",
                "" if one.memory_mib is None else f"{one.memory_mib:.1f}",
                one.problem,
            )
            for name, one in self.candidates.items()
        ]
        title = f"One update, {self.batch_size} examples a batch"
        reasons = "\n".join(f"- {reason}" for reason in self.reasons)
        return f"{text_table(title, _COLUMNS, lines)}Recommended: {self.name}\n{reasons}"
