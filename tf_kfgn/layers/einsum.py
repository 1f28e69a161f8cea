"""EinsumDense: a kernel that meets any axes of its input, by the letters of an equation."""

from __future__ import annotations

import dataclasses
import math
import string
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.activation import record_activation
from tf_kfgn.layers.adapted import refuse_adapted
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.axis_maps import AxisMaps
from tf_kfgn.operations.features import num_features
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.marks import mark_weights, matrix_of
from tf_kfgn.operations.operation import Ends
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.operations.taps import Taps
from tf_kfgn.operations.weight_matrix import AxisOrder, WeightMatrix
from tf_kfgn.recording.tape import CurvatureTape


@dataclasses.dataclass(frozen=True)
class Letters:
    """The equation of an einsum layer, each axis with a letter of its own.

    Attributes:
        input: Axes of the input, those of the ellipsis included.
        kernel: Axes of the kernel.
        output: Axes of the output, those of the ellipsis included.
    """

    input: str
    kernel: str
    output: str

    @classmethod
    def of(cls, equation: str, rank: int) -> Letters:
        """Read an equation for an input of some rank."""
        given, output = equation.replace(" ", "").split("->")
        inputs, kernel = given.split(",")
        unused = [letter for letter in string.ascii_letters if letter not in equation]
        elided = "".join(unused[: rank - len(inputs.replace("...", ""))])
        return cls(inputs.replace("...", elided), kernel, output.replace("...", elided))

    @property
    def groups(self) -> str:
        """Letters that input, kernel and output have: a matrix for each of their values."""
        return "".join(x for x in self.kernel if x in self.input and x in self.output)

    @property
    def rows(self) -> str:
        """Letters of the kernel that are summed over."""
        return "".join(x for x in self.kernel if x not in self.output)

    @property
    def columns(self) -> str:
        """Letters of the kernel that the input does not have."""
        return "".join(x for x in self.kernel if x in self.output and x not in self.input)

    @property
    def shared(self) -> str:
        """Letters of the output that are not in the kernel, but for the batch."""
        return "".join(x for x in self.output[1:] if x not in self.kernel)

    @property
    def keeps_examples(self) -> bool:
        """Whether both ends start with the batch, which the kernel does not know."""
        batch = self.input[0]
        return batch == self.output[0] and batch not in self.kernel

    @property
    def has_matrix(self) -> bool:
        """Whether the kernel is a weight matrix that meets each position of the input once."""
        ends = (self.input, self.kernel, self.output)
        once = all(len(set(letters)) == len(letters) for letters in ends)
        summed = set(self.input) - set(self.output) - set(self.kernel)
        return once and self.keeps_examples and not summed

    def kernel_order(self, shape: tuple[int, ...]) -> AxisOrder | None:
        """The kernel's axes as (groups, rows, columns)."""
        order = tuple(self.kernel.index(x) for x in self.groups + self.rows + self.columns)
        return None if order == tuple(range(len(order))) else AxisOrder(shape, order)

    def bias_order(self, bias_axes: str, sizes: dict[str, int]) -> AxisOrder | None:
        """The bias's axes as (groups, columns)."""
        axes = [x for x in self.output if x in bias_axes]
        order = tuple(axes.index(x) for x in self.groups + self.columns)
        if order == tuple(range(len(order))):
            return None
        return AxisOrder(tuple(sizes[x] for x in axes), order)


class EinsumOperation(ParametrisedOperation):
    """The affine part of an einsum layer; what it has of a bias may lie outside of the matrix."""

    def __init__(self, *args: Any, letters: Letters, **kwargs: Any) -> None:
        """Hold the ends as `ParametrisedOperation` does, and the letters of their axes."""
        super().__init__(*args, **kwargs)
        self._letters = letters

    @property
    @override
    def shared(self) -> int:
        leading = self.matrix.groups or 1
        return num_features(self.output) // (leading * self.out_features)

    @override
    def kernel_rows(self) -> tf.Tensor:
        num_features(self.input)
        letters, size = self._letters, self.matrix.in_features
        return self._rows(self.input, letters.input, letters.rows, size)

    @override
    def cotangent_rows(self, cotangent: tf.Tensor) -> tf.Tensor:
        letters, size = self._letters, self.out_features
        return self._rows(cotangent, letters.output, letters.columns, size)

    @override
    def position_axes(self) -> tuple[int, ...]:
        return self._places(self._letters.output)

    @override
    def taps(self, ends: Ends) -> Taps | None:
        letters, [before] = self._letters, ends.inputs
        own = tuple(self.input.shape[1:].as_list())
        fitting = before.shape == own and before.positions == self._places(letters.input)
        if letters.groups or not fitting:
            return None
        rows = [x for x in letters.input[1:] if x in letters.rows]
        order = [letters.kernel.index(x) for x in (*rows, *self._columns())]
        kernel = tf.transpose(tf.convert_to_tensor(self.kernel), order)
        maps = AxisMaps([np.eye(size)[None] for size in before.sizes])
        return Taps(tf.reshape(kernel, (1, 1, self.matrix.in_features, self.out_features)), maps)

    @override
    def row_channels(self, average: tf.Tensor) -> tf.Tensor:
        found, wanted = self._columns(), self._letters.groups + self._letters.columns
        sizes = dict(zip(self._letters.output[1:], self.output.shape[1:].as_list(), strict=True))
        places = np.arange(average.shape[0]).reshape([sizes[x] for x in found])
        return tf.gather(average, places.transpose([found.index(x) for x in wanted]).ravel())

    def _places(self, axes: str) -> tuple[int, ...]:
        """Which axes of an end, the batch not counted, are shared."""
        return tuple(i for i, letter in enumerate(axes[1:]) if letter in self._letters.shared)

    def _columns(self) -> list[str]:
        """The letters of the output's channels, in its order."""
        return [x for x in self._letters.output[1:] if x not in self._letters.shared]

    def _rows(self, tensor: tf.Tensor, axes: str, features: str, size: int) -> tf.Tensor:
        order = [axes.index(x) for x in self._letters.shared + self._letters.groups + features]
        turned = tf.transpose(tensor, [0, *order])
        return tf.reshape(turned, (-1, self.shared, *self.matrix.leading, size))


@register
class EinsumDense(Recording, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` that records its input and pre-activation on an active tape.

    A bias that is not one for each group and column, or is not along the last axis, has a diagonal
    block. So has the kernel of an equation without a weight matrix, one that sums the input over
    letters of its own.
    """

    def mark_variables(self) -> None:
        """Tell optimizers that kernel and bias form one Kronecker block.

        Raises:
            ValueError: If the layer is quantized or adapted with LoRA.
        """
        refuse_adapted(self)
        if matrix_of(self.kernel) is None:  # a layer around this one may have marked it
            mark_einsum_dense(self, self.name)

    @override
    def recorded_call(
        self, tape: CurvatureTape, inputs: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        del training  # it is for quantized layers
        pre_activation = self._linear(inputs)
        if self.bias is not None:
            pre_activation = keras.ops.add(pre_activation, self.bias)
        letters = Letters.of(self.equation, inputs.shape.rank)
        matrix = matrix_of(self.kernel)
        if matrix is not None:
            joined = self.bias is not None and matrix_of(self.bias) is matrix
            operation = EinsumOperation(
                self,
                inputs,
                pre_activation,
                self._linear,
                kernel=self.kernel,
                bias=self.bias if joined else None,
                letters=letters,
            )
            # TensorFlow cannot run the gradient of its odd addition for many cotangents at once.
            operation.vectorisable = self.bias is None or _is_broadcast(self.bias)
            tape.record(operation)
        elif letters.keeps_examples:
            tape.record(LinearOperation(self, inputs, pre_activation, self._linear))
        return record_activation(tape, self, self.activation, pre_activation)

    def _linear(self, inputs: tf.Tensor) -> tf.Tensor:
        return keras.ops.einsum(self.equation, inputs, self.kernel)


def mark_einsum_dense(layer: keras.layers.EinsumDense, name: str, part: str | None = None) -> None:
    """Mark the weights of a built einsum layer, if its kernel is a weight matrix.

    Args:
        layer: The layer, stock or recording.
        name: Name of the layer that the matrix belongs to.
        part: Which of that layer's matrices it is, or None for its only one.
    """
    letters = Letters.of(layer.equation, layer.input_spec.ndim)
    if not letters.has_matrix:
        return
    shape = tuple(layer.kernel.shape)
    sizes = dict(zip(letters.kernel, shape, strict=True))
    bias, bias_order = layer.bias, None
    if bias is not None:
        exact = set(layer.bias_axes) == set(letters.groups + letters.columns)
        if exact and _is_broadcast(bias):
            bias_order = letters.bias_order(layer.bias_axes, sizes)
        else:
            bias, part = None, part or "kernel"
    matrix = WeightMatrix(
        name,
        in_features=math.prod(sizes[x] for x in letters.rows),
        out_features=math.prod(sizes[x] for x in letters.columns),
        groups=math.prod(sizes[x] for x in letters.groups) if letters.groups else None,
        kernel_order=letters.kernel_order(shape),
        bias_order=bias_order,
        part=part,
    )
    mark_weights(matrix, layer.kernel, bias)


def _is_broadcast(bias: Any) -> bool:
    """Whether Keras adds a bias along its own axes.

    It takes one with a single axis and ones after it for a vector of channels, and then adds it
    along whichever axis has that length (`keras.ops.add` of Keras 3.15 on TensorFlow).
    """
    return bias.shape[-1] > 1 or sum(size > 1 for size in bias.shape) != 1
