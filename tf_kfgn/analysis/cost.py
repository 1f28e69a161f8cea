"""What an update costs, by counting multiplications and additions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn.blocks.block import Block
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.blocks.thin_gradients import products_of_a_row, rank_that_pays
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.optimizers import GaussNewton, HessianFree
from tf_kfgn.optimizers.directions import is_wide, keeps_directions, sees_plain_gradients
from tf_kfgn.optimizers.periods import Periods
from tf_kfgn.optimizers.reserve import keeps_reserve

MIB = 2**20

# A Jacobian-vector product and a forward pass against a gradient, of three passes of one size.
_JVP = 2 / 3
_FORWARD = 1 / 3


class BlockCost(NamedTuple):
    """Multiplications and additions that a block takes part in, whatever estimates its G.

    Attributes:
        forward: Of the product of the matrix with the inputs of one example.
        gradient: Of the layer's part of a gradient: three such products for each example.
        input_factor: Of an estimate of A.
        inverses: Of the inverses of both factors.
        preconditioning: Of the inverses times a vector.
        direction: Of the inverses times the gradient of a batch, which may be a thin product.
    """

    forward: int
    gradient: int
    input_factor: float
    inverses: int
    preconditioning: int
    direction: int

    def update(self, output_factor: float, periods: Periods, fraction: float) -> float:
        """One update without its gradient: each part divided by its period.

        Args:
            output_factor: Multiplications and additions of an estimate of G.
            periods: Updates between two estimates, and between two inversions.
            fraction: The part of the batch that the quadratic model is formed of.
        """
        forward = _FORWARD if fraction < 1 else 0  # else it is that of the gradient
        step = self.direction + (2 * _JVP + forward) * fraction * self.gradient
        return self.blocks(output_factor, periods) + step

    def blocks(self, output_factor: float, periods: Periods) -> float:
        """Factors and inverses, each divided by its period.

        Args:
            output_factor: Multiplications and additions of an estimate of G.
            periods: Updates between two estimates, and between two inversions.
        """
        factors = (self.input_factor + output_factor) / periods.factors
        return factors + self.inverses / periods.inverses


def block_cost(
    block: KroneckerBlock, uses: Sequence[ParametrisedOperation], batch_size: int
) -> BlockCost:
    """Count what a block takes.

    Args:
        block: A block.
        uses: The recorded operations of its matrix.
        batch_size: Examples in a batch.
    """
    groups = block.matrix.groups or 1
    rows, columns = block.rows, block.columns
    A, G = block.factor_shapes
    positions = sum(use.shared for use in uses)
    one_hot = block.matrix.one_hot  # a row of the matrix is looked up
    forward = 2 * positions * groups * (1 if one_hot else rows) * columns
    moment = 1 if one_hot else 2 * groups * rows * A[-1]
    dense = A[-1] > 1
    preconditioning = direction = 2 * groups * rows * columns * (A[-1] + G[-1])
    weights = [weight for weight in (uses[0].kernel, uses[0].bias) if weight is not None]
    is_product = len(uses) == 1 and is_wide(block, weights)
    if is_product and batch_size * positions <= rank_that_pays(block):
        direction = 2 * batch_size * positions * products_of_a_row(block)
    moments = sum(use.shared * moment / (use.equal_products if dense else 1) for use in uses)
    return BlockCost(
        forward=forward,
        gradient=3 * batch_size * forward,
        input_factor=batch_size * moments,
        inverses=2 * block.inversion_cost,
        preconditioning=preconditioning,
        direction=direction,
    )


def keeps_blocks(optimizer: GaussNewton) -> bool:
    """Whether an optimizer estimates blocks; `HessianFree` does only to precondition."""
    return not isinstance(optimizer, HessianFree) or optimizer.preconditioner is not None


def cost_against_gradient(
    block: Block,
    uses: Sequence[ParametrisedOperation],
    optimizer: GaussNewton,
    periods: Periods,
    batch_size: int,
    output_rows: int,
    num_outputs: int,
) -> float | None:
    """Cost of one update beyond the gradient, as a multiple of that of the layer's gradient.

    Counts, each divided by its period: the second moments and the backward passes (or the
    recursion) for the factors, and their inverses; and in every update the preconditioning and
    two Jacobian-vector products on a part of the batch. Of `HessianFree` as many iterations of CG
    as one update may take, each a preconditioning and a product, which costs as much as those two.

    Args:
        block: A block.
        uses: The recorded operations of its matrix.
        optimizer: Whose estimator counts.
        periods: Updates between two of its estimates, and between two of its inversions.
        batch_size: Examples in a batch.
        output_rows: Rows of outputs for one example.
        num_outputs: Outputs of the model for one example.

    Returns:
        The ratio, or None for a block without a matrix or uses.
    """
    if not isinstance(block, KroneckerBlock) or not uses:
        return None
    cost = block_cost(block, uses, batch_size)
    output_factor = optimizer.estimator.output_cost(uses, cost.forward, batch_size, num_outputs)
    if not isinstance(optimizer, HessianFree):
        fraction = optimizer.fraction_for_curvature(batch_size, output_rows)
        if not sees_plain_gradients(optimizer):
            cost = cost._replace(direction=cost.preconditioning)
        return cost.update(output_factor, periods, fraction) / cost.gradient
    iteration = 2 * _JVP * cost.gradient * optimizer.curvature_fraction
    blocks = 0.0
    if keeps_blocks(optimizer):
        blocks = cost.blocks(output_factor, periods)
        iteration += cost.preconditioning
    return (blocks + optimizer.search.max_cg_iterations * iteration) / cost.gradient


def state_size(block: Block, variables: Sequence[Any], optimizer: GaussNewton) -> int:
    """Bytes that an optimizer remembers of a block.

    Its state, the previous step, and what is kept of mean gradient, its direction and reserve; of
    `HessianFree` the last solution, and the state only if it preconditions.

    Args:
        block: A block.
        variables: Its variables.
        optimizer: Whose settings count.
    """
    settings = optimizer.settings
    averages = settings.gradient_decay > 0
    if isinstance(optimizer, HessianFree):
        averages = optimizer.search.warm_start > 0
    copies = 1 + averages + keeps_reserve(settings)
    types = [tf.as_dtype(variable.dtype) for variable in variables]
    own = 0
    if keeps_blocks(optimizer):
        size = max(4, *(dtype.size for dtype in types))
        if isinstance(block, KroneckerBlock) and settings.curvature_dtype is not None:
            size = tf.as_dtype(settings.curvature_dtype).size
        own = size * sum(math.prod(slot.shape) for slot in block.slots)
    if is_wide(block, variables) and keeps_directions(optimizer, settings):
        copies += 1
    return own + copies * sum(
        math.prod(variable.shape) * dtype.size
        for variable, dtype in zip(variables, types, strict=True)
    )
