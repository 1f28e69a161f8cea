"""Transposed convolutions: convolutions over an input with zeros between its values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.convolution import RecordingConvolution
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.patches import Geometry
from tf_kfgn.operations.weight_matrix import AxisOrder, WeightMatrix


class _ConvolutionTranspose(RecordingConvolution):
    output_padding: Any

    @override
    def convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.conv_transpose(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )

    @override
    def weight_matrix(self) -> WeightMatrix:
        *window, filters, channels = self.kernel.shape
        rank = len(window)
        order = AxisOrder(tuple(self.kernel.shape), (*range(rank), rank + 1, rank))
        return WeightMatrix(self.name, math.prod(window) * channels, filters, kernel_order=order)

    @override
    def geometry(self) -> Geometry:
        return dataclasses.replace(super().geometry(), transposed=True)


@register
class Conv1DTranspose(_ConvolutionTranspose, keras.layers.Conv1DTranspose):
    """`keras.layers.Conv1DTranspose` that records itself on an active tape."""


@register
class Conv2DTranspose(_ConvolutionTranspose, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` that records itself on an active tape."""


@register
class Conv3DTranspose(_ConvolutionTranspose, keras.layers.Conv3DTranspose):
    """`keras.layers.Conv3DTranspose` that records itself on an active tape."""
