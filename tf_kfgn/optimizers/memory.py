"""What a Gauss-Newton optimizer remembers from update to update: values, without variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn.blocks.collection import States
from tf_kfgn.optimizers.accumulation import Accumulated


class Scalars(NamedTuple):
    """The scalar state: values during an update, or the variables that hold them between two.

    Attributes:
        damping: τ for the next update; 0 until the first batch has set it.
        initial_damping: τ of the first update; 0 until the first batch has set it.
        step_size: α of the last update.
        momentum: μ of the last update.
        reduction_ratio: ρ when it was last measured.
        noise_ratio: R, see `tf_kfgn.optimizers.averaging`; 0 until it has been measured.
        fresh_slope: g^T δ₀ of the last update: the slope of the step before along a batch that did
            not make it.
        own_curvature: δ^T C δ of the last step that was made, on its own batch.
        trust: The largest λ, the share of a step taken at once, see `tf_kfgn.optimizers.trust`.
        agreement: Whether the last ones told that steps are too long (-1) or too short (1).
        usual_overshoot: Running mean of `|o c - s|`; 0 until it has been measured.
        uphill: Whether the reserve led up (1) or down (-1) in the last updates.
        usual_reserve_slope: Running mean of `|g^T r|`; 0 until it has been measured.
        averaged_steps: n, the steps in the average of `tf_kfgn.optimizers.reserve`.
        surprises: Batches in a row, up to the last, with an objective far above the usual one.
        usual_curvature: Running mean of `1/2 δ^T (C + τ + η) δ`; 0 until a step was made.
        usual_objective: Running mean of the objective; 0 until it is known.
        usual_deviation: Running mean of the deviation of its logarithm.
        usual_promise: Running mean of the part of it that steps promise, see
            `tf_kfgn.optimizers.bounds`; 0 until it is known.
        initial_objective: Its first value; 0 until it is known.
        last_moved: 1 if the last update moved the weights by `previous_step`, else 0.
        inverted_damping: τ of the last inversion.
        factor_updates: How often new factors entered the averages.
        inverse_age: Updates since the inverses were renewed, or began to be; 0 after a failure.
        inversion_turn: Which of the turns of `tf_kfgn.optimizers.inversion` comes next; 0 if all
            blocks have had theirs.
        rejected_steps: Updates that left the weights as they were.
        nonfinite_steps: Those among them that were not finite, or led to an objective that was not.
        failed_inversions: Blocks that kept their last good inverse, summed over updates.
        comparisons: Updates that took one more forward pass.
    """

    damping: Any
    initial_damping: Any
    step_size: Any
    momentum: Any
    reduction_ratio: Any
    noise_ratio: Any
    fresh_slope: Any
    own_curvature: Any
    trust: Any
    agreement: Any
    usual_overshoot: Any
    uphill: Any
    usual_reserve_slope: Any
    averaged_steps: Any
    surprises: Any
    usual_curvature: Any
    usual_objective: Any
    usual_deviation: Any
    usual_promise: Any
    initial_objective: Any
    last_moved: Any
    inverted_damping: Any
    factor_updates: Any
    inverse_age: Any
    inversion_turn: Any
    rejected_steps: Any
    nonfinite_steps: Any
    failed_inversions: Any
    comparisons: Any


class Memory(NamedTuple):
    """The whole state.

    Attributes:
        blocks: One state for each block.
        previous_step: δ₀, one tensor for each variable.
        scalars: The scalars.
        mean_gradient: ḡ, one tensor for each variable; empty without averaging.
        reserve: r, one tensor for each variable, see `tf_kfgn.optimizers.reserve`; empty where
            whole steps are taken.
        accumulated: Sums over batches; empty where every batch has an update of its own.
        mean_directions: P ḡ of some blocks by their places, joint matrices, see
            `tf_kfgn.optimizers.directions`.
    """

    blocks: States
    previous_step: list[tf.Tensor]
    scalars: Scalars
    mean_gradient: list[tf.Tensor]
    reserve: list[tf.Tensor]
    accumulated: Accumulated | tuple[()] = ()
    mean_directions: Mapping[int, tf.Tensor] = {}

    def with_scalars(self, **values: Any) -> Memory:
        """The same state with other values of some scalars."""
        return self._replace(scalars=self.scalars._replace(**values))
