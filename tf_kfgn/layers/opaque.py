"""Any other layer: recorded as a whole, with the exact rule for its averages.

A layer without a recording class of its own gets one made for it from `Opaque`. Its weights, if it
has any, have diagonal blocks.
"""

from __future__ import annotations

from typing import Any

import keras

from tf_kfgn.layers.call_template import CallOutput
from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.operation import Operation

# Layers that run others inside a loop, where no operation can be recorded.
LOOPS = (keras.layers.RNN,)


class OpaqueOperation(Operation):
    """What a layer does of which nothing is known, nor whether its gradient can be vectorised."""

    vectorisable = False


class Opaque(Recording):
    """Mixin for a layer class of which nothing is known."""

    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        """An operation without a rule of its own."""
        del args, kwargs
        return OpaqueOperation(self, *result)
