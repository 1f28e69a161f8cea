"""The exact Gauss-Newton matrix: its dense blocks, and its product with a vector."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn.analysis.examples import Examples
from tf_kfgn.analysis.flat_weights import (
    dtype_of,
    matrix_order,
    matrix_variables,
    places_among,
    sizes_of,
)
from tf_kfgn.analysis.inspection import tape_of
from tf_kfgn.analysis.memory import check_memory
from tf_kfgn.enabling import check_built
from tf_kfgn.factors.estimator import uses_of_matrices
from tf_kfgn.layers.parts import diagonal_variables, recordable_layers
from tf_kfgn.numerics.moments import second_moment
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.recording.tape import CurvatureTape


def gauss_newton_blocks(
    model: keras.Model, x: Any, loss: Any, y: Any = None, *, sample_weight: Any = None
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
        sample_weight: Weights of the examples as `fit` takes them, or None. They scale the
            curvature as they scale the loss.

    Returns:
        `{layer.name: block}`, each of shape `(weights, weights)` for the row-major joint matrix
        of kernel and bias, bias last: the layout of `np.kron(A, G)`. The matrices of a layer with
        several have names `layer/part`. The block of a layer without a weight matrix (a
        normalisation, an `RNN` of cells) is over its weights in their order, each flattened.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, the loss has no known curvature, or `sample_weight`
            does not match the examples.
    """
    with tape_of(model, Examples.of(x, y, sample_weight), loss) as tape:
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
    model: keras.Model,
    x: Any,
    loss: Any,
    vectors: Sequence[Any],
    y: Any = None,
    *,
    sample_weight: Any = None,
) -> list[tf.Tensor]:
    """The exact Gauss-Newton matrix of all weights times a vector.

    Args:
        model: A built Keras model; it runs in inference mode and is unchanged afterwards.
        x: Inputs, one batch.
        loss: What `compile(loss=...)` takes.
        vectors: One tensor for each of `model.trainable_variables`, shaped like it.
        y: Targets. The curvature of the known losses does not depend on them.
        sample_weight: Weights of the examples as `fit` takes them, or None. They scale the
            curvature as they scale the loss.

    Returns:
        One tensor for each of `model.trainable_variables`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, the loss has no known curvature, or `vectors` does
            not match the variables, or `sample_weight` the examples.
    """
    check_built(model)
    variables = model.trainable_variables
    if not isinstance(vectors, (list, tuple)):
        raise ValueError(
            "`vectors` must be a list with one tensor for each of model.trainable_variables, "
            f"received {vectors!r}."
        )
    shapes = [tuple(tf.shape(vector)) for vector in vectors]
    if shapes != [tuple(variable.shape) for variable in variables]:
        raise ValueError(
            "`vectors` must be shaped like model.trainable_variables, "
            f"{[tuple(variable.shape) for variable in variables]}, received {shapes}."
        )
    vectors = [tf.cast(v, w.dtype) for v, w in zip(vectors, variables, strict=True)]
    with tape_of(model, Examples.of(x, y, sample_weight), loss) as tape:
        return tape.gauss_newton_vector_product(vectors, variables)


def gauss_newton_matrix(
    model: keras.Model, x: Any, loss: Any, y: Any = None, *, sample_weight: Any = None
) -> tf.Tensor:
    """The exact Gauss-Newton matrix of all weights, with the blocks between layers.

    For layers λ and β the block is `E[(a_λ a_β^T) ⊗ G_λβ]` with `G_λβ = J_λ^T H_L J_β`: the whole
    is an expected Khatri-Rao product (Botev et al. 2017, section 4). With a weight matrix in every
    layer, it takes one backward pass for each output, else one product for each weight.

    Args:
        model: A built Keras model; it runs in inference mode and is unchanged afterwards.
        x: Inputs, one batch.
        loss: What `compile(loss=...)` takes. A Hessian of the loss that is not positive
            semi-definite is clipped, as in all Gauss-Newton functions.
        y: Targets. The curvature of the known losses does not depend on them.
        sample_weight: Weights of the examples as `fit` takes them, or None. They scale the
            curvature as they scale the loss.

    Returns:
        Shape `(weights, weights)`, over `model.trainable_variables` one after the other, each
        row-major.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, the loss has no known curvature, `sample_weight` does
            not match the examples, or the matrix would not fit in memory.
    """
    with tape_of(model, Examples.of(x, y, sample_weight), loss) as tape:
        variables = model.trainable_variables
        size = sum(sizes_of(variables))
        check_memory(
            f"The Gauss-Newton matrix of model {model.name!r}, {size:,} x {size:,},",
            3.0 * size**2,
            dtype_of(variables),
            "Use analysis.gauss_newton_operator or gauss_newton_blocks instead.",
        )
        uses = uses_of_matrices(tape)
        operations = [operation for several in uses.values() for operation in several]
        in_matrices = {id(v) for op in operations for v in matrix_variables(op)}
        if {id(v) for v in variables} == in_matrices and all(
            _keeps_examples(tape, operation) for operation in operations
        ):
            return _khatri_rao(tape, list(uses.values()), variables)
        return _variables_block(tape, variables)


def _khatri_rao(
    tape: CurvatureTape, uses: Sequence[list[ParametrisedOperation]], variables: Sequence[Any]
) -> tf.Tensor:
    """The matrix over weight matrices, from the gradients of each example in all of them."""
    rows = [tf.concat([op.input_rows() for op in operations], axis=1) for operations in uses]
    orders = [
        places_among(matrix_variables(operations[0]), variables)[matrix_order(operations[0])]
        for operations in uses
    ]
    order = np.argsort(np.concatenate(orders))
    total = None
    for cotangents in _root_columns(tape, uses):
        gradients = [
            _example_gradients(inputs, operations, found)
            for inputs, operations, found in zip(rows, uses, cotangents, strict=True)
        ]
        added = second_moment(tf.gather(tf.concat(gradients, axis=1), order, axis=1))
        total = added if total is None else total + added
    return total


def _root_columns(
    tape: CurvatureTape, uses: Sequence[list[ParametrisedOperation]]
) -> Iterator[list[list[tf.Tensor]]]:
    """For each column of the output curvature's root, its cotangents at each use of a matrix."""
    outputs = [operation.output for operations in uses for operation in operations]
    for likelihood in tape.likelihoods:
        for index in range(likelihood.num_columns):
            flat = tape.gradient(
                likelihood.recorded,
                outputs,
                output_gradients=tf.cast(likelihood.column(index), likelihood.recorded.dtype),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            yield tf.nest.pack_sequence_as([[op.output for op in ops] for ops in uses], flat)


def _example_gradients(
    inputs: tf.Tensor, operations: list[ParametrisedOperation], cotangents: list[tf.Tensor]
) -> tf.Tensor:
    """Gradients in a joint matrix for each example, shape `(batch_size, weights)`."""
    rows = tf.concat(
        [op.cotangent_rows(c) for op, c in zip(operations, cotangents, strict=True)], axis=1
    )
    gradients = tf.einsum("nt...i,nt...o->n...io", inputs, rows)
    return tf.reshape(gradients, (tf.shape(gradients)[0], -1))


def _matrix_block(tape: CurvatureTape, operations: list[ParametrisedOperation]) -> tf.Tensor:
    """The block of a weight matrix from the rows of its uses: one backward pass an output."""
    inputs = tf.concat([operation.input_rows() for operation in operations], axis=1)
    total = None
    for [cotangents] in _root_columns(tape, [operations]):
        added = second_moment(_example_gradients(inputs, operations, cotangents))
        total = added if total is None else total + added
    return total


def _keeps_examples(tape: CurvatureTape, operation: ParametrisedOperation) -> bool:
    """Whether an operation ran on each example, rather than once for all, as on positions."""
    count = tape.likelihoods[0].outputs.shape[0]
    return operation.output.shape[0] == count


def _joint_block(tape: CurvatureTape, operation: ParametrisedOperation) -> tf.Tensor:
    """The block of a weight matrix, from that of its variables."""
    variables, order = matrix_variables(operation), matrix_order(operation)
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
