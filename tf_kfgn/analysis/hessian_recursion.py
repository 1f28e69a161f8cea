"""The paper's recursion: exact pre-activation Hessians of a chain of layers, example by example.

For an elementwise `a = f(h)`, with `B = diag(f'(h))` and `D = diag(f''(h) dE/da)`,

    H_h = B H_a B + D,

and for an affine `h = a W + b` it is `H_a = W H_h W^T`. Both are cases of one rule for any
operation without weights: `H_in = J^T H_out J + D`, where D is the Hessian of `<dE/dout, f(in)>` in
the input. D vanishes for what is affine or piecewise linear.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import keras
import tensorflow as tf

from tf_kfgn.analysis.second_order_pass import SecondOrderPass, check_example_matrices
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.features import num_features
from tf_kfgn.operations.linear import LinearOperation, ReshapingOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.parametrised import OneHotOperation, ParametrisedOperation
from tf_kfgn.operations.row_normalization import RowNormalization
from tf_kfgn.operations.windows import WindowOperation

_KINDS = (
    ElementwiseOperation,
    LinearOperation,
    ReshapingOperation,
    RowNormalization,
    WindowOperation,
)


class HessianTerms(NamedTuple):
    """The two terms of a Hessian, which is their sum.

    Attributes:
        gauss_newton: `J^T H_L J` with the true Hessian H_L of the loss in the outputs (or in the
            logits behind them): the recursion without D. It is not clipped, so for a loss that is
            not convex it may have negative eigenvalues.
        bends: What the D of all layers above adds: the curvature of the network itself. Zero for a
            piecewise linear network.
    """

    gauss_newton: tf.Tensor
    bends: tf.Tensor

    @property
    def total(self) -> tf.Tensor:
        """The Hessian."""
        return self.gauss_newton + self.bends


class Chain(NamedTuple):
    """What the recursion goes through, or why it cannot.

    Attributes:
        operations: From the first trained weight matrix to the loss; empty if there is no chain.
        reason: Why there is none, or an empty string.
    """

    operations: list[Operation]
    reason: str = ""


def chain_of(made: SecondOrderPass) -> Chain:
    """The operations that the recursion goes through, if the model is a chain of such."""
    operations = list(made.tape.operations)
    if len(made.heads) > 1:
        return Chain([], "the model has several outputs")
    while operations and operations[-1].output is not made.heads[0]:
        operations.pop()  # a softmax that the loss looks behind
    trained = [
        index
        for index, operation in enumerate(operations)
        if isinstance(operation, ParametrisedOperation) and operation.trainable
    ]
    if not trained:
        return Chain([], "no recorded operation with trained weights leads to the loss")
    operations = operations[trained[0] :]
    for before, after in itertools.pairwise(operations):
        if len(after.inputs) != 1 or after.input is not before.output:
            return Chain([], f"layer {after.layer.name!r} does not take just the one before it")
    matrices: list[object] = []
    for operation in operations:
        reason = _refusal(operation)
        if isinstance(operation, ParametrisedOperation):
            if any(operation.matrix is matrix for matrix in matrices):
                reason = "is used several times"
            matrices.append(operation.matrix)
        if reason:
            return Chain([], f"layer {operation.layer.name!r} {reason}")
    return Chain(operations)


def _refusal(operation: Operation) -> str:
    """Why the recursion does not go through an operation, or an empty string."""
    if isinstance(operation.layer, keras.layers.BatchNormalization):
        return "may mix examples"
    if isinstance(operation, ParametrisedOperation):
        if operation.matrix.groups is not None or operation.used is not None:
            return "has groups or a mask"
        if isinstance(operation, OneHotOperation):
            return "is an embedding"
        return ""
    known = isinstance(operation, _KINDS) or type(operation) is Operation
    return "" if known else "is of no kind that the recursion knows"


def recursion(
    made: SecondOrderPass, chain: Chain
) -> list[tuple[ParametrisedOperation, HessianTerms]]:
    """Pre-activation Hessians of every trained weight matrix of a chain, the first layer first.

    Args:
        made: The pass.
        chain: Its chain, which must not be empty.

    Returns:
        For each matrix its operation and the terms of shape `(batch_size, d, d)`, over the
        flattened features of the pre-activation of one example, of that example's loss.

    Raises:
        ValueError: If they would not fit in memory.
    """
    operations = chain.operations
    for operation in operations:
        width, name = num_features(operation.output), operation.layer.name
        what = f"The pre-activation Hessians of layer {name!r}"
        check_example_matrices(what, made.batch_size, width, operation.output.dtype)
    cotangents = made.cotangents([operation.output for operation in operations])
    hessians = made.hessians(operations[-1].output)
    terms = HessianTerms(hessians, tf.zeros_like(hessians))
    found = []
    for index in reversed(range(len(operations))):
        operation = operations[index]
        if isinstance(operation, ParametrisedOperation) and operation.trainable:
            found.append((operation, terms))
        if index:
            terms = _through(made, operation, cotangents[index], terms)
    return found[::-1]


def _through(
    made: SecondOrderPass, operation: Operation, cotangent: tf.Tensor, terms: HessianTerms
) -> HessianTerms:
    """The terms at the input of an operation from those at its output."""
    if isinstance(operation, ReshapingOperation):
        return terms
    if isinstance(operation, LinearOperation):
        return HessianTerms(*(_linear(operation, term) for term in terms))
    if isinstance(operation, ElementwiseOperation):
        B = made.slopes(operation)
        D = made.bends(operation, cotangent)
        gauss_newton, bends = (B[:, :, None] * term * B[:, None, :] for term in terms)
        return HessianTerms(gauss_newton, bends + tf.linalg.diag(D))
    J = made.jacobians(operation)
    gauss_newton, bends = (tf.matmul(J, tf.matmul(term, J), transpose_a=True) for term in terms)
    return HessianTerms(gauss_newton, bends + made.bend_matrices(operation, cotangent))


def _linear(operation: LinearOperation, hessians: tf.Tensor) -> tf.Tensor:
    """`J^T H J` with the same J for every example."""
    for _ in range(2):
        count, rows, columns = hessians.shape
        flat = operation.transpose(tf.reshape(hessians, (count * rows, columns)))
        hessians = tf.transpose(tf.reshape(flat, (count, rows, -1)), (0, 2, 1))
    return hessians


def weight_block(operation: ParametrisedOperation, hessians: tf.Tensor) -> tf.Tensor:
    """`E[(a a^T) ⊗ H]`, over all pairs of shared positions.

    Args:
        operation: The operation of a weight matrix.
        hessians: Pre-activation Hessians, `(batch_size, d, d)`.

    Returns:
        The block over the row-major joint matrix.
    """
    rows = operation.input_rows()  # n t i
    count, shared, features = rows.shape
    outputs = operation.out_features
    pairs = _sorted(operation, hessians)  # n t o s p
    if shared == 1:
        inputs = tf.reshape(tf.einsum("nti,ntj->nij", rows, rows), (count, -1))
        block = tf.matmul(inputs, tf.reshape(pairs, (count, -1)), transpose_a=True)
        block = tf.reshape(block, (features, features, outputs, outputs))
        block = tf.transpose(block, (0, 2, 1, 3))
    else:
        half = tf.einsum("nti,ntosp->niosp", rows, pairs)
        block = tf.einsum("niosp,nsj->iojp", half, rows)
    size = features * outputs
    return tf.reshape(block, (size, size)) / tf.cast(count, block.dtype)


def _sorted(operation: ParametrisedOperation, hessians: tf.Tensor) -> tf.Tensor:
    """Both axes of features as (shared, columns of the matrix)."""
    count, width, _ = hessians.shape
    rows = (operation.shared, operation.out_features)
    for _ in range(2):
        tensors = tf.reshape(hessians, (-1, *operation.output.shape[1:]))
        turned = tf.reshape(operation.cotangent_rows(tensors), (count, width, width))
        hessians = tf.transpose(turned, (0, 2, 1))
    return tf.reshape(hessians, (count, *rows, *rows))
