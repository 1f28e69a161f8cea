"""What an update costs, by counting multiplications and additions."""

from __future__ import annotations

from collections.abc import Sequence

from tf_kfgn.blocks.block import Block
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.optimizers import GaussNewton

# A Jacobian-vector product against a gradient: two of the three passes of the same size.
_JVP = 2 / 3


def cost_against_gradient(
    block: Block,
    uses: Sequence[ParametrisedOperation],
    optimizer: GaussNewton,
    batch_size: int,
    num_outputs: int,
) -> float | None:
    """Cost of one update beyond the gradient, as a multiple of that of the layer's gradient.

    Counts, each divided by its period: the second moments and the backward passes (or the
    recursion) for the factors, and their inverses; and in every update the preconditioning and
    two Jacobian-vector products.

    Args:
        block: A block.
        uses: The recorded operations of its matrix.
        optimizer: Whose estimator and periods count.
        batch_size: Examples in a batch.
        num_outputs: Outputs of the model for one example.

    Returns:
        The ratio, or None for a block without a matrix or uses.
    """
    if not isinstance(block, KroneckerBlock) or not uses:
        return None
    groups = block.matrix.groups or 1
    rows, columns = block.rows, block.columns
    A, G = block.factor_shapes
    positions = sum(use.shared for use in uses)
    forward = 2 * positions * groups * rows * columns  # of one example
    gradient = 3 * batch_size * forward

    settings, estimator = optimizer.settings, optimizer.estimator
    input_factor = 2 * batch_size * positions * groups * rows * A[-1]
    output_factor = estimator.output_cost(uses, forward, batch_size, num_outputs)
    inverses = 2 * groups * (_cube(A) + _cube(G))
    preconditioning = 2 * groups * rows * columns * (A[-1] + G[-1])
    total = (
        (input_factor + output_factor) / settings.factor_period
        + inverses / settings.inverse_period
        + preconditioning
        + 2 * _JVP * gradient
    )
    return total / gradient


def _cube(shape: tuple[int, ...]) -> int:
    return shape[-2] if shape[-1] == 1 else shape[-1] ** 3
