"""Depthwise convolutions, in which each channel has kernels of its own, and separable ones."""

from __future__ import annotations

import functools
import math
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.activation import record_activation
from tf_kfgn.layers.convolution import (
    RecordingConvolution,
    add_bias,
    convolution_operation,
    linear,
)
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.marks import mark_weights
from tf_kfgn.operations.patches import Geometry
from tf_kfgn.operations.weight_matrix import AxisOrder, WeightMatrix
from tf_kfgn.recording.tape import CurvatureTape


class _Depthwise(RecordingConvolution):
    @override
    def convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return _depthwise(inputs, kernel, self.geometry())

    @override
    def weight_matrix(self) -> WeightMatrix:
        return _depthwise_matrix(self.name, self.kernel.shape)


@register
class DepthwiseConv1D(_Depthwise, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` that records itself on an active tape."""


@register
class DepthwiseConv2D(_Depthwise, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` that records itself on an active tape."""


class _Separable(Recording):
    """Records a depthwise convolution, then a dense layer on the channels of each position.

    The bias belongs to the second.
    """

    name: str
    depthwise_kernel: Any
    pointwise_kernel: Any
    bias: Any
    activation: Any
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    padding: str
    data_format: str

    def mark_variables(self) -> None:
        """Tell optimizers that the two kernels have blocks of their own."""
        depthwise = _depthwise_matrix(self.name, self.depthwise_kernel.shape, part="depthwise")
        mark_weights(depthwise, self.depthwise_kernel, None)
        *_, channels, filters = self.pointwise_kernel.shape
        pointwise = WeightMatrix(self.name, channels, filters, part="pointwise")
        mark_weights(pointwise, self.pointwise_kernel, self.bias)

    @override
    def recorded_call(self, tape: CurvatureTape, inputs: tf.Tensor) -> tf.Tensor:
        rank = len(self.kernel_size)
        ones = (1,) * rank
        depthwise = Geometry(
            self.kernel_size, self.strides, self.dilation_rate, self.padding, self.data_format
        )
        pointwise = Geometry(ones, ones, ones, "valid", self.data_format)
        parts = (
            (_depthwise, self.depthwise_kernel, None, depthwise),
            (_pointwise, self.pointwise_kernel, self.bias, pointwise),
        )
        outputs = inputs
        for convolve, kernel, bias, geometry in parts:
            inputs, map_of = outputs, functools.partial(convolve, geometry=geometry)
            outputs = map_of(inputs, kernel)
            if bias is not None:
                outputs = add_bias(outputs, bias, self.data_format)
            tape.record(
                convolution_operation(
                    self,
                    inputs,
                    outputs,
                    linear(map_of, kernel),
                    kernel=kernel,
                    bias=bias,
                    geometry=geometry,
                )
            )
        return record_activation(tape, self, self.activation, outputs)


@register
class SeparableConv1D(_Separable, keras.layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` that records its two parts on an active tape."""


@register
class SeparableConv2D(_Separable, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` that records its two parts on an active tape."""


def _depthwise(inputs: tf.Tensor, kernel: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    return keras.ops.depthwise_conv(
        inputs,
        kernel,
        strides=geometry.strides,
        padding=geometry.padding,
        dilation_rate=geometry.dilation_rate,
        data_format=geometry.data_format,
    )


def _pointwise(inputs: tf.Tensor, kernel: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    # A CPU has no plain convolution with the channels first; Keras goes the same way there.
    outputs = keras.ops.conv(
        geometry.channels_last(inputs), kernel, padding="valid", data_format="channels_last"
    )
    return geometry.own_format(outputs)


def _depthwise_matrix(layer: str, shape: Any, part: str | None = None) -> WeightMatrix:
    """The matrix of a depthwise kernel of shape `(*window, channels, depth multiplier)`.

    Each channel is a group, whose columns follow one another in the output.
    """
    *window, channels, multiplier = shape
    rows, rank = math.prod(window), len(window)
    if channels == 1:
        return WeightMatrix(layer, rows, multiplier, part=part)
    order = AxisOrder(tuple(shape), (rank, *range(rank), rank + 1))
    return WeightMatrix(layer, rows, multiplier, channels, kernel_order=order, part=part)
