"""Recording: what makes a Keras layer class one that records itself on an active tape."""

from __future__ import annotations

from typing import Any

from tf_kfgn.layers.call_template import RecordsCall, replace_stock_method
from tf_kfgn.layers.casting import RecordsCasts
from tf_kfgn.operations.marks import mark_diagonal
from tf_kfgn.swapping.swap import stock_class


class Recording(RecordsCasts, RecordsCall):
    """Base of the layer classes that record themselves; the stock class comes after it.

    A subclass says what its weights are (`mark_variables`) and what it records
    (`recorded_operation`, or `recorded_call` where its parts are recorded one by one).
    """

    built: bool
    variables: list[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a class that has no `build` of its own mark what it has built."""
        super().__init_subclass__(**kwargs)
        replace_stock_method(cls, "build", build_and_mark)

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Add a weight, in a diagonal block of its own unless the layer marks it otherwise."""
        variable = super().add_weight(*args, **kwargs)  # type: ignore[misc]
        mark_diagonal(variable)
        return variable

    def mark_variables(self) -> None:
        """Say which weights form a matrix: once they are built, or the layer's class is swapped."""


def build_and_mark(self: Any, *args: Any, **kwargs: Any) -> None:
    """Create the weights as the stock class does, and mark them."""
    stock_class(type(self)).build(self, *args, **kwargs)
    self.mark_variables()
