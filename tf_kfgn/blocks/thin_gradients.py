"""Gradients that are products of two thin matrices, and their products with an inverse block.

The gradient of a dense layer is `a^T c`, its inputs times the cotangents of its outputs, and has no
more rank than these have rows: one for each example. In the order

    A⁻¹ (a^T c) G⁻¹ = (a A⁻¹)^T (c G⁻¹)

the product with the inverses takes `rank (in² + out² + in · out)` multiplications instead of
`in · out (in + out)`: with a small batch a fraction.

The graph says which these matrices are: a gradient is nothing but `a^T c` if the operation that
made it is that product. If anything was added or changed since (a penalty on the weights, another
use of the layer, clipping, a sum over replicas), another operation made it. Outside of a graph
nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn.blocks.block import Block
from tf_kfgn.blocks.kronecker import KroneckerBlock, KroneckerState
from tf_kfgn.numerics.precision import at_least_float32

# Operations that hand their input on.
_HANDING_ON = ("EnsureShape", "Identity")

# Of the rank at which both orders take as many multiplications, the part up to which thin
# matrices are faster.
WORTHWHILE = 2 / 3

# What that must come to, for a block to be prepared for thin matrices: twice Keras' batch size.
LEAST_RANK = 64


class ThinGradient(NamedTuple):
    """A gradient `a^T c` with respect to the joint matrix of a block.

    Attributes:
        inputs: a, shape `(rank, in)`; a column of ones follows where the block has a bias.
        cotangents: c, shape `(rank, out)`.
        has_bias: Whether the block has a bias.
    """

    inputs: tf.Tensor
    cotangents: tf.Tensor
    has_bias: bool

    @property
    def rank(self) -> tf.Tensor | int:
        """Rows of both; a number where it is known before they come."""
        known = self.inputs.shape[0]
        return tf.shape(self.inputs)[0] if known is None else known


def rank_that_pays(block: Block) -> float:
    """Rank up to which thin matrices are faster; 0 if it is small, or a gradient is no product.

    Args:
        block: A block.
    """
    if not isinstance(block, KroneckerBlock):
        return 0.0
    matrix = block.matrix
    ordered = matrix.kernel_order is None and matrix.bias_order is None
    dense = all(shape[-1] > 1 for shape in block.factor_shapes)
    if matrix.leading or not ordered or not dense:
        return 0.0
    whole = block.rows * block.columns * (block.rows + block.columns)
    rank = WORTHWHILE * whole / products_of_a_row(block)
    return rank if rank >= LEAST_RANK else 0.0


def products_of_a_row(block: KroneckerBlock) -> int:
    """Multiplications of thin matrices with the inverses, for each of their rows.

    Args:
        block: A block.
    """
    rows, columns = block.rows, block.columns
    return rows**2 + columns**2 + rows * columns


def thin_gradient(block: Block, gradient: Sequence[tf.Tensor]) -> ThinGradient | None:
    """The two matrices whose product the gradient of a block is, or None if it is not known as one.

    Args:
        block: A block.
        gradient: One tensor for each variable of the optimizer.
    """
    tensors = [gradient[index] for index in block.indices]
    if not all(tf.is_symbolic_tensor(tensor) for tensor in tensors):
        return None
    kernel, *biases = [_operation_of(tensor) for tensor in tensors]
    if kernel.type != "MatMul":
        return None
    if not kernel.get_attr("transpose_a") or kernel.get_attr("transpose_b"):
        return None
    inputs, cotangents = kernel.inputs
    for bias in biases:
        if bias.type != "BiasAddGrad" or bias.inputs[0] is not cotangents:
            return None
    return ThinGradient(inputs, cotangents, has_bias=bool(biases))


def precondition_thin(state: KroneckerState, gradient: ThinGradient) -> tf.Tensor:
    """The damped inverse block times a gradient, in the shape of the joint matrix.

    Args:
        state: The block, with dense factors and without groups.
        gradient: The gradient.
    """
    dtype = at_least_float32(state.A.dtype)
    A_inverse, G_inverse = (tf.cast(i, dtype) for i in (state.A_inverse, state.G_inverse))
    inputs, cotangents = (tf.cast(t, dtype) for t in (gradient.inputs, gradient.cotangents))
    if gradient.has_bias:
        inputs = tf.pad(inputs, [[0, 0], [0, 1]], constant_values=1)
    product = tf.matmul(
        tf.matmul(inputs, A_inverse), tf.matmul(cotangents, G_inverse), transpose_a=True
    )
    return tf.cast(product, gradient.cotangents.dtype)


def _operation_of(tensor: tf.Tensor) -> tf.Operation:
    """The operation of a graph that made a tensor."""
    operation = tensor.op
    while operation.type in _HANDING_ON:
        operation = operation.inputs[0].op
    return operation
