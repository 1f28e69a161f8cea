"""Dropout: a random elementwise factor, the same in every product of one recorded pass."""

from __future__ import annotations

from typing import Any

import keras
from typing_extensions import override

from tf_kfgn.layers.call_template import CallOutput
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.operation import Operation


class _ElementwiseNoise(Recording):
    """A layer whose random factors are derivatives; at inference it is not there."""

    @override
    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        del args, kwargs
        return ElementwiseOperation(self, *result)


@register
class Dropout(_ElementwiseNoise, keras.layers.Dropout):
    """`keras.layers.Dropout` that records its mask."""


@register
class SpatialDropout1D(_ElementwiseNoise, keras.layers.SpatialDropout1D):
    """`keras.layers.SpatialDropout1D` that records its mask."""


@register
class SpatialDropout2D(_ElementwiseNoise, keras.layers.SpatialDropout2D):
    """`keras.layers.SpatialDropout2D` that records its mask."""


@register
class SpatialDropout3D(_ElementwiseNoise, keras.layers.SpatialDropout3D):
    """`keras.layers.SpatialDropout3D` that records its mask."""


@register
class AlphaDropout(_ElementwiseNoise, keras.layers.AlphaDropout):
    """`keras.layers.AlphaDropout` that records its mask."""


@register
class GaussianDropout(_ElementwiseNoise, keras.layers.GaussianDropout):
    """`keras.layers.GaussianDropout` that records its factor."""


@register
class GaussianNoise(_ElementwiseNoise, keras.layers.GaussianNoise):
    """`keras.layers.GaussianNoise` that records itself."""
