"""The exact Gauss-Newton matrix: its dense blocks, and its product with a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.analysis.inspection import tape_of
from tf_kfgn.factors.estimator import uses_of_matrices
from tf_kfgn.layers.parts import diagonal_variables, recordable_layers
from tf_kfgn.numerics.moments import second_moment
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.recording.tape import CurvatureTape


def gauss_newton_blocks(
    model: keras.Model, x: Any, loss: Any, y: Any = None
) -> dict[str, tf.Tensor]:
    """The exact Gauss-Newton block of every layer with trainable weights.

    The block of a layer is `1/N sum_n J_n^T H_n J_n`, with the Jacobian of the outputs with
    respect to its joint weight matrix and the Hessian of the loss with respect to the outputs.
    Needs one backward pass for each output, and the square of the number of weights in memory.

    Args:
        model: A built Keras model; it runs in inference mode and is unchanged afterwards.
        x: Inputs, one batch.
        loss: What `compile(loss=...)` takes.
        y: Targets. The curvature of the known losses does not depend on them.

    Returns:
        `{layer.name: block}`, each of shape `(weights, weights)` for the row-major joint matrix
        of kernel and bias, bias last: the layout of `np.kron(A, G)`. The matrices of a layer with
        several have names `layer/part`. The block of a layer without a weight matrix (a
        normalisation, an `RNN` of cells) is over its weights in their order, each flattened.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, or the loss has no known curvature.
    """
    with tape_of(model, x, loss, y) as tape:
        blocks = {}
        for matrix, operations in uses_of_matrices(tape).items():
            if all(_keeps_examples(tape, operation) for operation in operations):
                blocks[matrix.name] = _matrix_block(tape, operations)
            else:
                blocks[matrix.name] = _joint_block(tape, operations[0])
        for layer in [model, *recordable_layers(model)]:
            variables = diagonal_variables(layer)
            if variables:
                blocks[layer.name] = _variables_block(tape, variables)
        return blocks


def gauss_newton_vector_product(
    model: keras.Model, x: Any, loss: Any, vectors: Sequence[Any], y: Any = None
) -> list[tf.Tensor]:
    """The exact Gauss-Newton matrix of all weights times a vector.

    Args:
        model: A built Keras model; it runs in inference mode and is unchanged afterwards.
        x: Inputs, one batch.
        loss: What `compile(loss=...)` takes.
        vectors: One tensor for each of `model.trainable_variables`, shaped like it.
        y: Targets. The curvature of the known losses does not depend on them.

    Returns:
        One tensor for each of `model.trainable_variables`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, the loss has no known curvature, or `vectors` does
            not match the variables.
    """
    variables = model.trainable_variables
    shapes = [tuple(tf.shape(vector)) for vector in vectors]
    if shapes != [tuple(variable.shape) for variable in variables]:
        raise ValueError(
            "`vectors` must be shaped like model.trainable_variables, "
            f"{[tuple(variable.shape) for variable in variables]}, received {shapes}."
        )
    vectors = [tf.cast(v, w.dtype) for v, w in zip(vectors, variables, strict=True)]
    with tape_of(model, x, loss, y) as tape:
        return tape.gauss_newton_vector_product(vectors, variables)


def _matrix_block(tape: CurvatureTape, operations: list[ParametrisedOperation]) -> tf.Tensor:
    """The block of a weight matrix from the rows of its uses: one backward pass an output."""
    inputs = tf.concat([operation.input_rows() for operation in operations], axis=1)
    total = None
    for likelihood in tape.likelihoods:
        for index in range(likelihood.num_columns):
            cotangents = tape.gradient(
                likelihood.recorded,
                [operation.output for operation in operations],
                output_gradients=tf.cast(likelihood.column(index), likelihood.recorded.dtype),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            rows = tf.concat(
                [op.cotangent_rows(c) for op, c in zip(operations, cotangents, strict=True)],
                axis=1,
            )
            gradients = tf.einsum("nt...i,nt...o->n...io", inputs, rows)
            added = second_moment(tf.reshape(gradients, (tf.shape(gradients)[0], -1)))
            total = added if total is None else total + added
    return total


def _keeps_examples(tape: CurvatureTape, operation: ParametrisedOperation) -> bool:
    """Whether an operation ran on each example, rather than once for all, as on positions."""
    count = tape.likelihoods[0].outputs.shape[0]
    return operation.output.shape[0] == count


def _joint_block(tape: CurvatureTape, operation: ParametrisedOperation) -> tf.Tensor:
    """The block of a weight matrix, from that of its variables."""
    biased = operation.bias is not None and operation.bias.trainable
    variables = [operation.kernel, operation.bias] if biased else [operation.kernel]
    sizes = [math.prod(variable.shape) for variable in variables]
    numbers = tf.split(tf.range(sum(sizes)), sizes)
    pieces = [tf.reshape(n, v.shape) for n, v in zip(numbers, variables, strict=True)]
    order = tf.reshape(operation.matrix.join(pieces), (-1,))
    block = _variables_block(tape, variables)
    return tf.gather(tf.gather(block, order), order, axis=1)


def _variables_block(tape: CurvatureTape, variables: list[Any]) -> tf.Tensor:
    """The block of any variables: one product with the Gauss-Newton matrix for each weight."""
    columns = []
    shapes = [tuple(variable.shape) for variable in variables]
    sizes = [math.prod(shape) for shape in shapes]
    for index in range(sum(sizes)):
        unit = tf.one_hot(index, sum(sizes), dtype=variables[0].dtype)
        pieces = [tf.reshape(p, s) for p, s in zip(tf.split(unit, sizes), shapes, strict=True)]
        product = tape.gauss_newton_vector_product(pieces, variables)
        columns.append(tf.concat([tf.reshape(piece, (-1,)) for piece in product], axis=0))
    return tf.stack(columns, axis=1)
