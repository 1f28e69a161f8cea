"""Convolutions as data: every kind of layer, in float64.

TensorFlow's CPU kernels do without some convolutions in float64: with the channels first, unless
they are depthwise or Keras compiles them (grouped or 3D ones), and transposed with a dilation.
XLA knows all of these, so that such cases run in "xla" mode.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from older_keras import skip_where_stock_fails
from passes import compiled

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.layers.convolution import ConvolutionOperation

N = 3
FIRST = {"data_format": "channels_first"}
SAME = {"padding": "same"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A stock layer, the shape of an example, and the mode in which TensorFlow runs it."""

    cls: type
    shape: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    mode: str = "eager"

    def stock(self, **kwargs):
        return self.cls(*self.arguments, dtype="float64", **{**self.options, **kwargs})

    def run_stock(self):
        """Run the stock layer on nothing but zeros."""
        stock = self.stock()
        stock.build((None, *self.shape))
        compiled(stock, self.mode)(tf.zeros((N, *self.shape), tf.float64))

    def made(self):
        """A recording layer with random weights, and a batch for it."""
        skip_where_stock_fails(self.run_stock)
        # Not from the stock layer's configuration: Keras 3.10 leaves output_padding out of it.
        cls = getattr(layers, self.cls.__name__)
        layer = cls(*self.arguments, dtype="float64", **self.options)
        generator = np.random.default_rng(0)
        layer.build((None, *self.shape))
        for variable in layer.variables:
            variable.assign(generator.normal(size=variable.shape))
        return layer, tf.constant(generator.normal(size=(N, *self.shape)))


def case(cls, shape, *arguments, mode="eager", **options):
    return Case(cls, shape, arguments, options, mode)


L = keras.layers
CASES = {
    "1d": case(L.Conv1D, (7, 2), 3, 3),
    "1d, activation": case(L.Conv1D, (7, 2), 3, 3, activation="tanh"),
    "1d, same, strides": case(L.Conv1D, (7, 2), 3, 4, strides=3, **SAME),
    "1d, valid, strides": case(L.Conv1D, (8, 2), 3, 2, strides=3),
    "1d, causal": case(L.Conv1D, (5, 2), 3, 3, padding="causal"),
    "1d, causal, dilation": case(L.Conv1D, (6, 2), 3, 3, padding="causal", dilation_rate=2),
    "1d, causal, strides": case(L.Conv1D, (6, 2), 3, 3, padding="causal", strides=2),
    "1d, groups": case(L.Conv1D, (6, 4), 6, 3, groups=2, dilation_rate=2),
    "1d, channels first": case(L.Conv1D, (2, 6), 3, 3, mode="xla", **FIRST),
    "1d, channels first, causal": case(
        L.Conv1D, (2, 5), 3, 3, padding="causal", mode="xla", **FIRST
    ),
    "1d, channels first, groups": case(L.Conv1D, (4, 5), 6, 3, groups=2, **SAME, **FIRST),
    "2d": case(L.Conv2D, (4, 5, 2), 3, (2, 3)),
    "2d, no bias": case(L.Conv2D, (4, 5, 2), 3, 2, use_bias=False),
    "2d, one pixel": case(L.Conv2D, (2, 3, 4), 3, 1),
    "2d, one pixel, strides": case(L.Conv2D, (4, 3, 2), 3, 1, strides=2),
    "2d, same": case(L.Conv2D, (4, 5, 2), 3, (3, 2), activation="tanh", **SAME),
    "2d, same, strides": case(L.Conv2D, (5, 6, 2), 2, (3, 4), strides=(2, 3), **SAME),
    "2d, same, wide strides": case(L.Conv2D, (5, 5, 2), 2, 2, strides=3, **SAME),
    "2d, same, dilation": case(L.Conv2D, (5, 6, 2), 2, (3, 2), dilation_rate=(2, 3), **SAME),
    "2d, large kernel": case(L.Conv2D, (2, 2, 2), 2, 5, **SAME),
    "2d, groups": case(L.Conv2D, (4, 4, 6), 6, 2, groups=3),
    "2d, groups, strides": case(L.Conv2D, (5, 4, 4), 2, 3, groups=2, strides=2, **SAME),
    "2d, groups of one channel": case(L.Conv2D, (4, 3, 3), 6, 2, groups=3, use_bias=False),
    "2d, channels first": case(L.Conv2D, (2, 4, 3), 3, 2, strides=2, mode="xla", **FIRST),
    "2d, channels first, groups": case(L.Conv2D, (4, 3, 4), 6, 2, groups=2, **SAME, **FIRST),
    "3d": case(L.Conv3D, (3, 4, 3, 2), 2, (2, 3, 2), strides=(1, 2, 1)),
    "3d, same, dilation": case(L.Conv3D, (3, 2, 3, 1), 2, 2, dilation_rate=2, **SAME),
    "3d, groups": case(L.Conv3D, (2, 3, 2, 4), 4, 2, groups=2),
    "3d, channels first": case(L.Conv3D, (2, 2, 3, 3), 3, 2, **FIRST),
    "depthwise 1d": case(L.DepthwiseConv1D, (6, 3), 3, depth_multiplier=2, **SAME),
    "depthwise 1d, dilation": case(L.DepthwiseConv1D, (6, 3), 2, dilation_rate=2),
    "depthwise 1d, channels first": case(L.DepthwiseConv1D, (3, 6), 3, strides=2, **FIRST),
    "depthwise 2d": case(
        L.DepthwiseConv2D, (4, 5, 2), (2, 3), depth_multiplier=3, activation="tanh"
    ),
    "depthwise 2d, strides": case(L.DepthwiseConv2D, (5, 4, 3), 3, strides=2, **SAME),
    "depthwise 2d, one channel": case(L.DepthwiseConv2D, (4, 4, 1), 2, depth_multiplier=3),
    "depthwise 2d, no bias": case(
        L.DepthwiseConv2D, (4, 4, 2), 2, use_bias=False, dilation_rate=2, **SAME
    ),
    "depthwise 2d, channels first": case(
        L.DepthwiseConv2D, (2, 4, 4), 3, depth_multiplier=2, **FIRST
    ),
    "separable 1d": case(L.SeparableConv1D, (6, 3), 4, 3, depth_multiplier=2, activation="tanh"),
    "separable 1d, strides": case(L.SeparableConv1D, (6, 2), 3, 3, strides=2, **SAME),
    "separable 2d": case(L.SeparableConv2D, (4, 4, 2), 3, 2, depth_multiplier=2),
    "separable 2d, dilation": case(
        L.SeparableConv2D, (5, 4, 2), 3, 2, dilation_rate=2, use_bias=False, **SAME
    ),
    "separable 2d, channels first": case(
        L.SeparableConv2D, (2, 4, 4), 3, 3, strides=2, **SAME, **FIRST
    ),
    "transpose 1d": case(L.Conv1DTranspose, (4, 2), 3, 3, activation="tanh"),
    "transpose 1d, wide strides": case(L.Conv1DTranspose, (3, 2), 3, 2, strides=3),
    "transpose 1d, dilation": case(
        L.Conv1DTranspose, (4, 2), 3, 3, dilation_rate=2, mode="xla", **SAME
    ),
    "transpose 1d, channels first": case(
        L.Conv1DTranspose, (2, 4), 3, 3, strides=2, mode="xla", **FIRST
    ),
    **{
        f"transpose 1d, {padding}, kernel {size}, output padding {extra}": case(
            L.Conv1DTranspose, (3, 1), 1, size, strides=3, padding=padding, output_padding=extra
        )
        for padding in ("valid", "same")
        for size in (3, 4, 5)
        for extra in (0, 1, 2)
        if padding == "valid" or size % 2 or extra  # TensorFlow refuses these
    },
    "transpose 2d": case(L.Conv2DTranspose, (3, 2, 2), 2, (3, 2), strides=2, use_bias=False),
    "transpose 2d, same": case(L.Conv2DTranspose, (2, 3, 2), 3, (4, 3), strides=(2, 1), **SAME),
    "transpose 2d, output padding": case(
        L.Conv2DTranspose, (2, 3, 2), 3, 3, strides=2, output_padding=(0, 1), **SAME
    ),
    "transpose 2d, dilation": case(L.Conv2DTranspose, (3, 3, 2), 2, 2, dilation_rate=2, mode="xla"),
    "transpose 2d, channels first": case(
        L.Conv2DTranspose, (2, 2, 3), 3, 3, strides=2, mode="xla", **SAME, **FIRST
    ),
    "transpose 3d": case(L.Conv3DTranspose, (2, 2, 2, 2), 2, (2, 3, 2), strides=2, **SAME),
}


def affine_parts(given, layer):
    """The affine maps of a layer by stock layers, one for each weight matrix."""
    weights = layer.get_weights()
    if not isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)):
        stock = given.stock(activation=None)
        stock.build((None, *given.shape))
        stock.set_weights(weights)
        return [tf.function(stock, jit_compile=given.mode == "xla")]
    options = {**given.options, "use_bias": False, "activation": None}
    cls = getattr(L, type(layer).__name__.replace("Separable", "Depthwise"))
    stock = cls(given.arguments[1], dtype="float64", **options)
    stock.build((None, *given.shape))
    stock.set_weights(weights[:1])
    kernel = weights[1].reshape(weights[1].shape[-2:])
    bias = weights[2] if layer.use_bias else np.zeros(kernel.shape[1])
    if layer.data_format == "channels_last":
        return [stock, lambda x: tf.einsum("...i,io->...o", x, kernel) + bias]
    return [stock, lambda x: tf.einsum("ni...,io->no...", x, kernel) + bias[:, None, None]]


def operations_of(tape):
    return [part for part in tape.operations if isinstance(part, ConvolutionOperation)]


def measured(layer, x, use):
    """What `use` makes of each affine operation and the tape, inside the recorded call."""
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch(x)
        layer(x)
    return [use(operation, tape) for operation in operations_of(tape)]


def in_mode(given, use):
    layer, x = given.made()
    return layer, x, compiled(lambda x: measured(layer, x, use), given.mode)(x)


def weights_of(operation):
    return [operation.kernel] + [operation.bias] * (operation.bias is not None)
