"""Flatten and Reshape: nothing but a new shape for the features of each example."""

from __future__ import annotations

from typing import Any

import keras
from typing_extensions import override

from tf_kfgn.layers.call_template import CallOutput
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.linear import LinearOperation, ReshapingOperation
from tf_kfgn.operations.operation import Operation


class _Reshaping(Recording):
    """A layer that keeps the order of the flattened features."""

    @override
    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        del args, kwargs
        return ReshapingOperation(self, *result)


@register
class Flatten(_Reshaping, keras.layers.Flatten):
    """`keras.layers.Flatten` that records itself on an active tape."""

    @override
    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        [inputs] = result.inputs
        if self.data_format == "channels_first" and inputs.shape.rank > 2:
            return LinearOperation(self, *result)  # Keras moves the channels to the end first
        return super().recorded_operation(result, *args, **kwargs)


@register
class Reshape(_Reshaping, keras.layers.Reshape):
    """`keras.layers.Reshape` that records itself on an active tape."""
