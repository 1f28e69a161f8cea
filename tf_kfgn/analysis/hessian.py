"""The exact Hessian: its block of every layer, and pre-activation Hessians of single examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn.analysis.automatic_blocks import automatic_block
from tf_kfgn.analysis.examples import Examples
from tf_kfgn.analysis.flat_weights import (
    dtype_of,
    matrix_order,
    matrix_variables,
    sizes_of,
)
from tf_kfgn.analysis.hessian_recursion import HessianTerms, chain_of, recursion, weight_block
from tf_kfgn.analysis.memory import check_memory
from tf_kfgn.analysis.second_order_pass import check_example_matrices, second_order_pass
from tf_kfgn.factors.estimator import uses_of_matrices
from tf_kfgn.layers.parts import diagonal_variables, recordable_layers
from tf_kfgn.numerics.checks import check_flag
from tf_kfgn.operations.features import num_features
from tf_kfgn.operations.parametrised import ParametrisedOperation

RECURSION = "recursion"
AUTOMATIC = "automatic differentiation"


class HessianBlocks(dict[str, Any]):
    """Blocks by the names of their layers, and how each was found.

    Attributes:
        sources: For each name `"recursion"` or `"automatic differentiation"`.
        reason: Why the recursion could not be used for the weight matrices; empty if it was.
    """

    def __init__(self, blocks: Mapping[str, Any], sources: Mapping[str, str], reason: str) -> None:
        """Hold the blocks."""
        super().__init__(blocks)
        self.sources = dict(sources)
        self.reason = reason


@overload
def hessian_blocks(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: Any,
    *,
    terms: Literal[False] = False,
    sample_weight: Any = ...,
    training: bool = False,
) -> dict[str, tf.Tensor]: ...


@overload
def hessian_blocks(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: Any,
    *,
    terms: Literal[True],
    sample_weight: Any = ...,
    training: bool = False,
) -> dict[str, HessianTerms]: ...


def hessian_blocks(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: Any,
    *,
    terms: bool = False,
    sample_weight: Any = None,
    training: bool = False,
) -> dict[str, Any]:
    """The exact Hessian block of every layer with trainable weights.

    It is the Hessian of the loss that Keras reports, without regularisers. Nothing is clipped:
    with a loss that is not convex in the outputs, all of its second derivative there enters, the
    negative part too, unlike in the Gauss-Newton functions, which clip it.

    For a chain of layers (dense and convolutional ones, activations of any kind, dropout, pooling,
    reshaping) the blocks come from the recursion of Botev et al. (2017), section 3: example by
    example `H_λ = B W H_{λ+1} W^T B + D` with `B = diag(f'(h))` and `D = diag(f''(h) dE/da)`, and
    the block is the mean of `(a a^T) ⊗ H_λ`. Every other block comes from products with the
    Hessian, one for each weight of the layer.

    Args:
        model: A built Keras model; it is unchanged afterwards.
        x: Inputs, one batch.
        y: Targets as the loss takes them.
        loss: What `compile(loss=...)` takes; it need not be convex.
        terms: Whether to return the two terms of each block, see `HessianTerms`.
        sample_weight: Weights of the examples as `fit` takes them, or None. They scale the
            curvature as they scale the loss.
        training: Whether the model runs as in training: with dropout, whose masks are the same for
            all blocks.

    Returns:
        `{layer.name: block}`, each of shape `(weights, weights)` for the row-major joint matrix
        of kernel and bias, bias last: the layout of `np.kron(A, G)` and of `gauss_newton_blocks`.
        With `terms`, `HessianTerms` of two such matrices. The dictionary is a `HessianBlocks`,
        whose `sources` says how each block was found.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, `y` is missing, `sample_weight` does not match the
            examples, or a matrix would not fit in memory.
        NotImplementedError: If TensorFlow cannot differentiate a layer or the loss twice.
    """
    check_flag("terms", terms)
    batch = Examples.of(x, y, sample_weight)
    with second_order_pass(model, batch, loss, training) as made:
        chain = chain_of(made)
        found: dict[str, HessianTerms] = {}
        uses = uses_of_matrices(made.tape)
        others = {
            layer.name: diagonal_variables(layer) for layer in [model, *recordable_layers(model)]
        }
        others = {name: variables for name, variables in others.items() if variables}
        for matrix, operations in uses.items():
            size = sum(sizes_of(matrix_variables(operations[0])))
            _check_block(matrix.name, size, operations[0].output.dtype)
        for name, variables in others.items():
            _check_block(name, sum(sizes_of(variables)), dtype_of(variables))

        for operation, both in recursion(made, chain) if chain.operations else []:
            blocks = [weight_block(operation, term) for term in (both if terms else (both.total,))]
            rest = blocks[1:] or [tf.zeros_like(blocks[0])]
            found[operation.matrix.name] = HessianTerms(blocks[0], *rest)
        sources = dict.fromkeys(found, RECURSION)
        for matrix, operations in uses.items():
            if matrix.name not in found:
                both = automatic_block(made, matrix_variables(operations[0]), matrix.name, terms)
                order = matrix_order(operations[0])
                found[matrix.name] = HessianTerms(*(_reordered(term, order) for term in both))
        for name, variables in others.items():
            found[name] = automatic_block(made, variables, name, terms)
        sources.update({name: AUTOMATIC for name in found if name not in sources})
    result = found if terms else {name: both.gauss_newton for name, both in found.items()}
    return HessianBlocks(result, sources, chain.reason)


def preactivation_hessians(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: Any,
    *,
    sample_weight: Any = None,
    training: bool = False,
) -> dict[str, tf.Tensor]:
    """The Hessian of each example's loss in the pre-activation of each layer.

    By the recursion where it goes, see `hessian_blocks`; else by differentiating twice for each
    feature of the pre-activation.

    Args:
        model: A built Keras model; it is unchanged afterwards.
        x: Inputs, one batch.
        y: Targets as the loss takes them.
        loss: What `compile(loss=...)` takes.
        sample_weight: Weights of the examples as `fit` takes them, or None. They are inside the
            per-example loss.
        training: Whether the model runs as in training; batch normalisation must not.

    Returns:
        `{layer.name: Hessians}` of shape `(batch_size, d, d)` for every layer with a trained weight
        matrix, over the d flattened features of its pre-activation for one example. They belong
        to the per-example loss, whose mean over the batch is what Keras reports.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, `y` is missing, `sample_weight` does not match the
            examples, or they would not fit in memory.
        NotImplementedError: If a layer is used several times, examples meet in batch
            normalisation, or TensorFlow cannot differentiate a layer or the loss twice.
    """
    batch = Examples.of(x, y, sample_weight)
    with second_order_pass(model, batch, loss, training) as made:
        chain = chain_of(made)
        if chain.operations:
            return {operation.matrix.name: both.total for operation, both in recursion(made, chain)}
        for operation in made.tape.operations:
            if training and isinstance(operation.layer, keras.layers.BatchNormalization):
                raise NotImplementedError(
                    f"Layer {operation.layer.name!r} lets examples meet in training, so there is "
                    "no Hessian of a single example. Use training=False."
                )
        found = {}
        for matrix, operations in uses_of_matrices(made.tape).items():
            found[matrix.name] = made.hessians(_only_output(operations, made.batch_size))
        return found


def _only_output(operations: Sequence[ParametrisedOperation], batch_size: int) -> tf.Tensor:
    """The pre-activation of a layer that is used once, for each example."""
    name = operations[0].layer.name
    output = operations[0].output
    if len(operations) > 1 or output.shape[0] != batch_size:
        raise NotImplementedError(
            f"Layer {name!r} is used {len(operations)} times, or once for all examples, so it has "
            "no pre-activation of its own for each example. hessian_blocks takes such a model."
        )
    what = f"The pre-activation Hessians of layer {name!r}"
    check_example_matrices(what, batch_size, num_features(output), output.dtype)
    return output


def _reordered(matrix: tf.Tensor, order: np.ndarray) -> tf.Tensor:
    return tf.gather(tf.gather(matrix, order), order, axis=1)


def _check_block(name: str, size: int, dtype: tf.DType) -> None:
    check_memory(
        f"The Hessian block of layer {name!r}, {size:,} x {size:,},",
        3.0 * size**2,
        dtype,
        "Use products with the Hessian instead: analysis.hessian_operator.",
    )
