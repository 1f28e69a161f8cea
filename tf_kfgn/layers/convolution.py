"""Convolutions: an affine map of each patch, with the same weights at every position."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.activation import record_activation
from tf_kfgn.layers.adapted import refuse_adapted
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.features import num_features
from tf_kfgn.operations.marks import mark_weights
from tf_kfgn.operations.operation import Ends
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.operations.patches import Geometry
from tf_kfgn.operations.taps import Taps
from tf_kfgn.operations.weight_matrix import AxisOrder, WeightMatrix
from tf_kfgn.recording.tape import CurvatureTape


class ConvolutionOperation(ParametrisedOperation):
    """The affine part of a convolution; its shared positions are those of the output.

    A row of the kernel's input is a patch: the positions of the kernel first, then the channels.
    With groups each has the patches of its own channels.

    Attributes:
        geometry: How the kernel moves over the input.
    """

    rows_in_order = True

    def __init__(self, *args: Any, geometry: Geometry, **kwargs: Any) -> None:
        """Hold what `ParametrisedOperation` does, and the geometry."""
        super().__init__(*args, **kwargs)
        self.geometry = geometry
        # Keras compiles these with XLA on a CPU, which a vectorised gradient would lose.
        self.vectorisable = self.matrix.groups is None and geometry.data_format == "channels_last"

    @property
    @override
    def shared(self) -> int:
        num_features(self.output)  # refuses positions without a static number
        return math.prod(self.geometry.spatial_shape(self.output))

    @override
    def kernel_rows(self) -> tf.Tensor:
        patches = self.geometry.patches(self.input, self.output)
        groups = self.matrix.groups
        if groups is None:
            return tf.reshape(patches, (-1, self.shared, self.matrix.in_features))
        taps = math.prod(self.geometry.kernel_size)
        apart = tf.reshape(
            patches, (-1, self.shared, taps, groups, self.matrix.in_features // taps)
        )
        rows = tf.transpose(apart, (0, 1, 3, 2, 4))
        return tf.reshape(rows, (-1, self.shared, groups, self.matrix.in_features))

    @property
    def _shares_patches(self) -> bool:
        return self.matrix.groups is None and self.geometry.shares_patches

    @property
    @override
    def equal_products(self) -> int:
        return self.geometry.kernel_size[0] if self._shares_patches else 1

    @override
    def input_products(self, dtype: tf.DType) -> tf.Tensor | None:
        if not self._shares_patches:
            return None
        inputs = tf.cast(self.input, dtype)
        return self.geometry.patch_products(inputs, self.output, ones=self.bias_trainable)

    @override
    def input_sums(self, dtype: tf.DType) -> tf.Tensor:
        if self.matrix.groups is not None:
            return super().input_sums(dtype)
        sums = self.geometry.patch_sums(tf.cast(self.input, dtype), self.output)
        if not self.bias_trainable:
            return sums
        return tf.pad(sums, [[0, 0], [0, 1]], constant_values=self.shared)

    @override
    def cotangent_rows(self, cotangent: tf.Tensor) -> tf.Tensor:
        rows = self.geometry.channels_last(cotangent)
        return tf.reshape(rows, (-1, self.shared, *self.matrix.leading, self.out_features))

    @override
    def position_axes(self) -> tuple[int, ...]:
        first = 0 if self.geometry.data_format == "channels_last" else 1
        return tuple(range(first, first + len(self.geometry.kernel_size)))

    @override
    def taps(self, ends: Ends) -> Taps | None:
        [before] = ends.inputs
        own = tuple(self.input.shape[1:].as_list())
        if before.shape != own or before.positions != self.position_axes():
            return None
        groups = self.matrix.groups or 1
        count = math.prod(self.geometry.kernel_size)
        kernel = tf.reshape(
            self.matrix.join([tf.convert_to_tensor(self.kernel)]),
            (groups, count, self.matrix.in_features // count, self.out_features),
        )
        maps = self.geometry.axis_maps(self.input, self.output)
        return Taps(tf.transpose(kernel, (1, 0, 2, 3)), maps)


class ChannelsFirstConvolutionOperation(ConvolutionOperation):
    """A convolution whose output has the positions of one channel after the other."""

    rows_in_order = False


def convolution_operation(*args: Any, geometry: Geometry, **kwargs: Any) -> ConvolutionOperation:
    """The operation that fits the data format; arguments are those of `ConvolutionOperation`."""
    last = geometry.data_format == "channels_last"
    kind = ConvolutionOperation if last else ChannelsFirstConvolutionOperation
    return kind(*args, geometry=geometry, **kwargs)


class RecordingConvolution(Recording):
    """Records the affine part and the activation of a layer with one kernel and one bias."""

    name: str
    kernel: Any
    bias: Any
    activation: Any
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    padding: str
    data_format: str

    def mark_variables(self) -> None:
        """Tell optimizers that kernel and bias form one Kronecker block, or one for each group.

        Raises:
            ValueError: If the layer is quantized or adapted with LoRA.
        """
        refuse_adapted(self)
        mark_weights(self.weight_matrix(), self.kernel, self.bias)

    @override
    def recorded_call(self, tape: CurvatureTape, inputs: tf.Tensor) -> tf.Tensor:
        pre_activation = self.convolve(inputs, self.kernel)
        if self.bias is not None:
            pre_activation = add_bias(pre_activation, self.bias, self.data_format)
        tape.record(
            convolution_operation(
                self,
                inputs,
                pre_activation,
                linear(self.convolve, self.kernel),
                kernel=self.kernel,
                bias=self.bias,
                geometry=self.geometry(),
            )
        )
        return record_activation(tape, self, self.activation, pre_activation)

    def convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The stock linear map."""
        raise NotImplementedError

    def weight_matrix(self) -> WeightMatrix:
        """The matrix of kernel and bias."""
        raise NotImplementedError

    def geometry(self) -> Geometry:
        """How the kernel moves over the input."""
        return Geometry(
            self.kernel_size, self.strides, self.dilation_rate, self.padding, self.data_format
        )


def linear(convolve: Any, kernel: Any) -> Any:
    """The linear map of a convolution as a function of its input, of any floating type."""

    def function(inputs: tf.Tensor) -> tf.Tensor:
        return convolve(inputs, keras.ops.cast(kernel, inputs.dtype))

    return function


def add_bias(outputs: tf.Tensor, bias: Any, data_format: str) -> tf.Tensor:
    """Add a bias to each channel, as stock layers do.

    With the channels first, `keras.ops.add` (3.15.1) takes the last axis for the channels where it
    is as long. Rows do not follow it there, but predictions must.
    """
    shape = [1] * outputs.shape.rank
    shape[-1 if data_format == "channels_last" else 1] = bias.shape[0]
    return keras.ops.add(outputs, keras.ops.reshape(bias, shape))


class _Convolution(RecordingConvolution):
    groups: int
    convolution_op: Any

    @override
    def convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return self.convolution_op(inputs, kernel)

    @override
    def weight_matrix(self) -> WeightMatrix:
        *window, channels, filters = self.kernel.shape
        rows, columns = math.prod(window) * channels, filters // self.groups
        if self.groups == 1:
            return WeightMatrix(self.name, rows, columns)
        rank = len(window)
        order = AxisOrder(
            (*window, channels, self.groups, columns), (rank + 1, *range(rank + 1), rank + 2)
        )
        return WeightMatrix(self.name, rows, columns, self.groups, kernel_order=order)


@register
class Conv1D(_Convolution, keras.layers.Conv1D):
    """`keras.layers.Conv1D` that records its input and pre-activation on an active tape."""

    @override
    def convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        padding = self.padding
        if padding == "causal":
            [span] = self.geometry().spans
            places = [[0, 0], [span, 0], [0, 0]]
            if self.data_format == "channels_first":
                places = [[0, 0], [0, 0], [span, 0]]
            inputs, padding = keras.ops.pad(inputs, places), "valid"
        return keras.ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@register
class Conv2D(_Convolution, keras.layers.Conv2D):
    """`keras.layers.Conv2D` that records its input and pre-activation on an active tape."""


@register
class Conv3D(_Convolution, keras.layers.Conv3D):
    """`keras.layers.Conv3D` that records its input and pre-activation on an active tape."""
