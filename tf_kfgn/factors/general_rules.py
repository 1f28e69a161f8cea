"""Rules for averages over channels alone that hold for any operation.

A linear operation of few features is made a matrix, which is exact. For any other, one cotangent
is drawn for each example, uncorrelated between positions and with S as the covariance of its
channels; it goes back once, and the mean over examples and positions of its products is the rule's
value on average over the draws. KFAC makes such draws once, at the outputs of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.losses.general import clip_eigenvalues
from tf_kfgn.numerics.precision import unit_scale
from tf_kfgn.operations.axis_maps import alignment
from tf_kfgn.operations.features import num_features
from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Ends, Operation

MAX_MATRIX_SIZE = 2**20  # entries of the matrix of a linear operation


def pull_back(
    operation: Operation, average: tf.Tensor, ends: Ends, tape: Any, seed: tf.Tensor
) -> tf.Tensor:
    """Mean blocks of the average of `J_n^T (I (x) S) J_n`; see `Operation.pull_back_channels`."""
    if has_matrix(operation):
        matrix = _matrix(operation, average.dtype)
        rows = [layout.rows(part) for layout, part in zip(ends.inputs, matrix, strict=True)]
        apart = [_by_outputs(part, ends.output) for part in rows]
        curved = [tf.einsum("ij,qjpc->qipc", average, part) for part in apart]
        return _joint(ends.inputs, average.dtype, lambda i, j, w: _pairs(curved[i], apart[j], w))
    column = drawn_cotangent(operation, average, ends.output, seed)
    back = _transposed(operation, column, tape, average.dtype)
    rows = [layout.rows(part) for layout, part in zip(ends.inputs, back, strict=True)]
    return _joint(ends.inputs, average.dtype, lambda i, j, w: _mean_pairs(rows[i], rows[j], w))


def mean_transpose(
    operation: Operation,
    columns: tf.Tensor,
    ends: Ends,
    other: Layout,
    tape: Any,
    seed: tf.Tensor,
) -> tf.Tensor | None:
    """See `Operation.mean_transpose_channels`; None if no positions are aligned with the other."""
    behind = alignment(ends.output, other)
    if behind is None:
        return None
    if has_matrix(operation):
        back = _matrix(operation, columns.dtype)
        unit = None
    else:
        unit = _signs(operation, ends.output, seed, columns.dtype)
        back = _transposed(operation, ends.output.features(unit), tape, columns.dtype)
    found = []
    for layout, part in zip(ends.inputs, back, strict=True):
        before = alignment(layout, other)
        if before is None:
            found.append(tf.zeros((layout.num_channels, columns.shape[1]), columns.dtype))
            continue
        weights = before @ behind.T / before.sum()
        rows = layout.rows(part)
        if unit is None:
            apart = _by_outputs(rows, ends.output)
            mean = tf.einsum("qjpc,pq->cj", apart, tf.constant(weights, columns.dtype))
        else:
            mean = _mean_pairs(rows, unit, weights)
        found.append(tf.matmul(mean, columns))
    return tf.concat(found, axis=0)


def drawn_cotangent(
    operation: Operation, average: tf.Tensor, layout: Layout, seed: tf.Tensor
) -> tf.Tensor:
    """A cotangent of the output, `(batch_size, features)`, with S between the channels."""
    _, root = clip_eigenvalues(average)
    signs = _signs(operation, layout, seed, average.dtype)
    flat = tf.matmul(tf.reshape(signs, (-1, layout.num_channels)), root)
    return layout.features(tf.reshape(flat, tf.shape(signs)))


def products(
    output: tf.Tensor, targets: Sequence[tf.Tensor], cotangent: tf.Tensor, tape: Any
) -> list[tf.Tensor]:
    """The transposed Jacobian of each example times a vector of its own.

    Args:
        output: Shape `(batch_size, *features)`.
        targets: What it depends on.
        cotangent: Shape `(batch_size, features)`.
        tape: A tape that recorded how the output came about.
    """
    dtype = cotangent.dtype
    half = output.dtype == tf.float16
    scale = tf.cast(unit_scale([cotangent]), dtype) if half else tf.ones((), dtype)
    found = tape.gradient(
        output,
        list(targets),
        output_gradients=tf.cast(tf.reshape(cotangent * scale, tf.shape(output)), output.dtype),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [tf.cast(product, dtype) / scale for product in found]


def has_matrix(operation: Operation) -> bool:
    """Whether an operation is linear, and small enough to be made a matrix."""
    size = num_features(operation.output) * sum(operation.input_widths)
    return isinstance(operation, LinearOperation) and size <= MAX_MATRIX_SIZE


def _signs(operation: Operation, layout: Layout, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Random signs for the output of each example, `(batch_size, positions, channels)`."""
    shape = (tf.shape(operation.output)[0], layout.num_positions, layout.num_channels)
    uniform = replicas.uniform_of_examples(shape, seed, dtype)
    signs = tf.where(uniform < 0.5, -tf.ones_like(uniform), tf.ones_like(uniform))
    return tf.ensure_shape(tf.cast(signs, dtype), (None, *shape[1:]))


def _matrix(operation: Any, dtype: tf.DType) -> list[tf.Tensor]:
    """The transposed Jacobian for each input, shape `(features of the output, features)`."""
    rows = operation.transpose(tf.eye(num_features(operation.output), dtype=dtype))
    return list(tf.split(rows, operation.input_widths, axis=1))


def _transposed(
    operation: Operation, cotangent: tf.Tensor, tape: Any, dtype: tf.DType
) -> list[tf.Tensor]:
    """The transposed Jacobian of each example times its cotangent, for each input."""
    if isinstance(operation, LinearOperation):
        return list(tf.split(operation.transpose(cotangent), operation.input_widths, axis=1))
    inputs, output, tape = operation.once_more(tape, alone=True)
    return [tf.cast(x, dtype) for x in products(output, inputs, cotangent, tape)]


def _by_outputs(rows: tf.Tensor, layout: Layout) -> tf.Tensor:
    """Rows of each feature of the output as `(its positions, its channels, *rows)`."""
    flat = tf.transpose(tf.reshape(rows, (rows.shape[0], -1)))
    apart = tf.transpose(layout.rows(flat), (1, 2, 0))
    return tf.reshape(apart, (layout.num_positions, layout.num_channels, *rows.shape[1:]))


def _joint(layouts: Sequence[Layout], dtype: tf.DType, block: Any) -> tf.Tensor:
    """The matrix over the channels of all inputs, block by block.

    Args:
        layouts: Of the inputs.
        dtype: Type of the matrix.
        block: Makes a block from two inputs and the weights of their pairs of positions.
    """

    def between(i: int, j: int) -> tf.Tensor:
        aligned = alignment(layouts[i], layouts[j])
        if aligned is None:
            return tf.zeros((layouts[i].num_channels, layouts[j].num_channels), dtype)
        return block(i, j, aligned / aligned.sum())

    places = range(len(layouts))
    return tf.concat([tf.concat([between(i, j) for j in places], axis=1) for i in places], axis=0)


def _pairs(first: tf.Tensor, second: tf.Tensor, weights: np.ndarray) -> tf.Tensor:
    """Sum over the outputs' features and weighted pairs of positions of the inputs."""
    return tf.einsum("qipc,qiud,pu->cd", first, second, tf.constant(weights, first.dtype))


def _mean_pairs(first: tf.Tensor, second: tf.Tensor, weights: np.ndarray) -> tf.Tensor:
    """Mean over examples, and weighted sum over pairs of positions."""
    count = tf.cast(tf.shape(first)[0], first.dtype)
    scale = weights[0, 0]
    if np.array_equal(weights, scale * np.eye(*weights.shape)):
        second = second * tf.constant(scale, first.dtype)
    else:
        second = tf.einsum("pu,nud->npd", tf.constant(weights, first.dtype), second)
    left, right = (tf.reshape(rows, (-1, rows.shape[-1])) for rows in (first, second))
    return tf.matmul(left, right, transpose_a=True) / count
