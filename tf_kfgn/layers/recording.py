"""Recording: what makes a Keras layer class one that records itself on an active tape."""

from __future__ import annotations

from typing import Any

import keras

from tf_kfgn.layers.casting import record_casts
from tf_kfgn.operations.marks import mark_diagonal
from tf_kfgn.recording.active import active_tape


class RecordingCasts:
    """Mixin for a layer class: an active tape learns of the casts of its inputs."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer."""
        tape = active_tape()
        if tape is not None:
            layer: Any = self
            args, kwargs = record_casts(tape, layer, args, kwargs)
        return super().__call__(*args, **kwargs)  # type: ignore[misc]


class Recording(RecordingCasts):
    """Marks a layer class that records itself; see `tf_kfgn.layers`."""

    @classmethod
    def stock_class(cls) -> type[keras.layers.Layer]:
        """The Keras class that this class stands for."""
        position = cls.__mro__.index(Recording)
        return next(
            base for base in cls.__mro__[position + 1 :] if issubclass(base, keras.layers.Layer)
        )

    def stock_call(self, *args: Any, **kwargs: Any) -> Any:
        """The computation of the Keras class, which records nothing."""
        return self.stock_class().call(self, *args, **kwargs)

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Add a weight, in a diagonal block of its own unless the layer marks it otherwise."""
        variable = super().add_weight(*args, **kwargs)  # type: ignore[misc]
        mark_diagonal(variable)
        return variable

    def mark_variables(self) -> None:
        """Mark the weights of a layer that was built before its class was swapped."""
