"""Blocks of the Hessian and its Gauss-Newton term by automatic differentiation alone.

The recorded pass is differentiated again for each weight, several at once: reverse over reverse,
which is forward over reverse for a symmetric matrix, and far cheaper to trace in TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_kfgn.analysis.columns import symmetric_matrix
from tf_kfgn.analysis.flat_weights import cut, dtype_of, joined, sizes_of
from tf_kfgn.analysis.hessian_recursion import HessianTerms
from tf_kfgn.analysis.second_order_pass import Product, SecondOrderPass


def automatic_block(
    made: SecondOrderPass, variables: Sequence[Any], name: str, terms: bool
) -> HessianTerms:
    """The block of some variables, over their joined entries.

    Args:
        made: The pass.
        variables: Variables of the model.
        name: Of their layer.
        terms: Whether to tell the two terms apart; else all is in the first.
    """
    dtype, size = dtype_of(variables), sum(sizes_of(variables))

    def matrix_of(product: Product, what: str) -> tf.Tensor:
        return symmetric_matrix(
            lambda vector: joined(product(cut(vector, variables)), dtype),
            size,
            dtype,
            f"{what} of {name}",
        )

    total = matrix_of(made.hessian_product(variables), "Hessian")
    if not terms:
        return HessianTerms(total, tf.zeros_like(total))
    gauss_newton = matrix_of(made.gauss_newton_product(variables), "Gauss-Newton term")
    return HessianTerms(gauss_newton, total - gauss_newton)
