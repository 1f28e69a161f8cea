"""One update of `HessianFree`, as functions of settings, layout and memory.

After Martens, "Deep learning via Hessian-free optimization", ICML 2010:

1. CG minimises `M(x) = g^T x + 1/2 x^T (G + (τ + η) I) x`, with products of the recorded pass, from
   the last solution times `warm_start`, until M hardly falls (`conjugate_gradients`);
2. from the last iterate it goes back to earlier ones as long as the objective falls with it
   (`backtracking`);
3. the weights move by `learning_rate` times that iterate, and the damping follows the ratio of
   actual to predicted change; a step that raised the objective is taken back.

As in the other optimizers, a batch whose objective is far from the usual one asks whether the last
step was at fault (`retreat`), and a step that nobody compares promises at most half of the
objective (`bounds`).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.blocks import collection
from tf_kfgn.blocks.factor import are_finite
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.numerics.choice import select
from tf_kfgn.numerics.precision import unit_scale
from tf_kfgn.optimizers import bounds
from tf_kfgn.optimizers.backtracking import go_back
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.comparison import (
    comparison_due,
    is_measurable,
    measured,
)
from tf_kfgn.optimizers.conjugate_gradients import Solution, conjugate_gradients
from tf_kfgn.optimizers.damping import retried
from tf_kfgn.optimizers.hessian_free_settings import SearchSettings
from tf_kfgn.optimizers.hessian_free_variables import SearchMemory
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.objective import is_unusual, known_objective
from tf_kfgn.optimizers.proposal import Proposal, scaled, zero_unless
from tf_kfgn.optimizers.retreat import seems_astray
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.optimizers.step_size import dot
from tf_kfgn.optimizers.update import Trial, judged, with_step, without_last_step

# In units of the initial damping: a τ of 0 could not grow again.
LEAST_DAMPING = 1e-12


class Candidates(NamedTuple):
    """The iterates of one search, in units of the weights.

    Attributes:
        solution: The search, of the gradient times `scale`.
        scale: A power of two.
        kept_at: Numbers of the iterates that were kept.
        gradient: g, one tensor for each variable.
        usable: Whether gradient and last iterate are finite, and products did not end the search
            before it found anything.
    """

    solution: Solution
    scale: tf.Tensor
    kept_at: list[int]
    gradient: list[tf.Tensor]
    usable: tf.Tensor

    @property
    def last(self) -> tf.Tensor:
        """Number of candidates before the last iterate, which makes it the last candidate's."""
        reached = [number < self.solution.iterations for number in self.kept_at]
        return tf.reduce_sum(tf.cast(reached, tf.int32)) if reached else tf.constant(0)

    def iterate(self, index: tf.Tensor) -> list[tf.Tensor]:
        """A candidate."""
        x = self.solution.x
        if self.kept_at:
            x = tf.cond(
                index < self.last,
                lambda: [rows[index] for rows in self.solution.kept],
                lambda: self.solution.x,
            )
        return scaled(x, 1 / self.scale)

    def number(self, index: tf.Tensor) -> tf.Tensor:
        """The number of a candidate among all iterates."""
        last = self.solution.iterations
        if not self.kept_at:
            return last
        numbers = tf.constant(self.kept_at)
        kept = numbers[tf.minimum(index, len(self.kept_at) - 1)]
        return tf.where(index < self.last, kept, last)

    def proposal(
        self, index: tf.Tensor, length: tf.Tensor, batch: Batch, memory: Memory
    ) -> Proposal:
        """The step to a candidate, `length` times as long.

        Args:
            index: Number of the candidate.
            length: Factor of the step, learning rate included.
            batch: What the batch brings.
            memory: The optimizer's memory.
        """
        x = self.iterate(index)
        length = tf.cast(length, memory.scalars.damping.dtype)
        rate = tf.cast(batch.learning_rate, length.dtype)
        slope = dot(self.gradient, x)
        own_slope = slope if batch.own_gradient is None else dot(batch.own_gradient, x)
        value = self.solution.values[self.number(index)] / self.scale**2
        curved = length**2 * tf.cast(value - slope, length.dtype)
        return Proposal(
            step=scaled(x, length),
            coefficients=tf.stack([tf.math.divide_no_nan(length, rate), tf.zeros_like(length)]),
            change=length * tf.cast(own_slope, length.dtype) + curved,
            curved=curved,
            own_curvature=tf.zeros_like(length),
            fresh_curvature=tf.constant(float("nan"), length.dtype),
            fresh_slope=tf.cast(dot(self.gradient, memory.previous_step), length.dtype),
            mean_gradient=[],
            mean_directions={},
            promise=tf.zeros_like(length),
            reserve_slope=tf.zeros_like(length),
            held_back=tf.zeros_like(length),
        )


def search_step(
    search: SearchSettings, layout: Layout, memory: Memory, past: SearchMemory, batch: Batch
) -> Candidates:
    """Solve `(G + (τ + η) I) x = -g` by CG, with the curvature of the batch, or of a part of it.

    Args:
        search: How to search.
        layout: The optimizer's variables and blocks; the blocks precondition.
        memory: Its memory.
        past: What the last search left.
        batch: What the batch brings.
    """
    tape = batch.tape_of_model
    assert tape is not None
    gauss_newton = tape.gauss_newton_operator(layout.variables)
    dampings = layout.dampings(memory.scalars.damping)
    # Near convergence the squares of a gradient would underflow. Powers of two change no digit.
    scale = unit_scale(batch.gradient)
    scale = tf.cast(scale, dot(batch.gradient, batch.gradient).dtype)

    def moving(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        return zero_unless(batch.moving, tensors)

    def product(vector: list[tf.Tensor]) -> list[tf.Tensor]:
        curved = zip(gauss_newton(vector), vector, dampings, strict=True)
        # With an open batch the product of a reshaped kernel has no static shape.
        return moving(
            [
                tf.ensure_shape(tf.cast(c, v.dtype), v.shape) + tf.cast(tau, v.dtype) * v
                for c, v, tau in curved
            ]
        )

    def precondition(vector: list[tf.Tensor]) -> list[tf.Tensor]:
        return moving(collection.precondition(layout.blocks, memory.blocks, vector))

    start = scaled(moving(past.solution), search.warm_start * scale) if past.solution else None
    solution = conjugate_gradients(
        product,
        scaled(moving(batch.gradient), -scale),
        precondition=precondition,
        start=start,
        most_iterations=search.max_cg_iterations,
        tolerance=search.cg_tolerance,
        kept_at=search.kept_at,
    )
    finite = are_finite([*batch.gradient, *solution.x])
    useless = solution.failed & ~(solution.value < 0)
    return Candidates(solution, scale, search.kept_at, batch.gradient, finite & ~useless)


def move(
    settings: Settings,
    search: SearchSettings,
    layout: Layout,
    memory: Memory,
    past: SearchMemory,
    batch: Batch,
) -> tuple[Memory, SearchMemory]:
    """Move the weights: search, go back, compare, and keep or take back.

    Args:
        settings: The optimizer's settings.
        search: How to search.
        layout: Its variables and blocks; the variables are assigned.
        memory: Its memory, with the damping and the inverses of this update.
        past: What the last search left.
        batch: What the batch brings.
    """
    dtype = memory.scalars.damping.dtype
    objective = known_objective(batch, dtype)
    found = search_step(search, layout, memory, past, batch)
    finite = found.usable & batch.has_examples
    if objective is not None:  # it may have overflown
        finite &= tf.math.is_finite(objective)
    rate = tf.minimum(tf.cast(batch.learning_rate, dtype), bounds.OVERRELAXATION)
    bounded = _bounded(rate, found, bounds.room_below(memory, batch, objective))
    proposal = found.proposal(found.last, bounded, batch, memory)
    old = [tf.convert_to_tensor(variable) for variable in layout.variables]

    def moved(step: list[tf.Tensor]) -> list[tf.Tensor]:
        return [w + tf.cast(d, w.dtype) for w, d in zip(old, step, strict=True)]

    if not is_measurable(settings, batch):
        replicas.store(layout.variables, select(finite, moved(proposal.step), old))
        memory = with_step(settings, memory, proposal, finite, finite, finite, objective)
        return _with_search(memory, past, found, found.last, finite)

    # Forward passes of the same batch: back along the iterates, or where the last step began.
    astray = seems_astray(memory, is_unusual(memory, batch, objective))
    due = finite & comparison_due(settings, memory, proposal, batch.iteration) & ~astray
    length = tf.where(due, rate, bounded)
    before = measured(batch, due | astray, tf.zeros_like(proposal.change))

    def back() -> list[tf.Tensor]:
        return without_last_step(memory, old)

    def objective_of(index: tf.Tensor) -> tf.Tensor:
        there = tf.cond(astray, back, lambda: moved(scaled(found.iterate(index), length)))
        _assign(layout, there)
        assert batch.objective is not None
        return batch.objective()

    first = tf.where(astray, found.last, 0)
    choice = go_back(objective_of, found.last, first, due | astray, dtype)
    after = tf.where(due | astray, choice.value, before)
    proposal = found.proposal(choice.index, length, batch, memory)
    new = select(finite, moved(proposal.step), old)
    trial = Trial(objective, old, new, back, finite, due, astray, before, after)
    store = functools.partial(replicas.store, layout.variables)
    memory, learns = judged(settings, store, memory, batch, proposal, trial)
    return _with_search(memory, past, found, choice.index, learns)


def _bounded(rate: tf.Tensor, found: Candidates, room: tf.Tensor | None) -> tf.Tensor:
    """The length of a step to the last iterate that nobody compares."""
    if room is None:
        return rate
    fall = -tf.cast(dot(found.gradient, found.iterate(found.last)), rate.dtype)
    return tf.where(fall > 0, tf.minimum(rate, room / tf.where(fall > 0, fall, 1)), rate)


def _with_search(
    memory: Memory, past: SearchMemory, found: Candidates, index: tf.Tensor, learns: tf.Tensor
) -> tuple[Memory, SearchMemory]:
    """Remember the search, and raise a damping with which it found nothing.

    Args:
        memory: The optimizer's memory.
        past: What the last search left.
        found: The iterates.
        index: Number of the candidate that was proposed.
        learns: Whether the next search may start where this one ended.
    """
    scalars = memory.scalars
    iterations = tf.cast(found.solution.iterations, tf.int64)
    solution = past.solution
    if solution:
        solution = select(learns, scaled(found.solution.x, 1 / found.scale), solution)
    lost = found.solution.indefinite & ~found.usable
    raised = tf.where(lost, retried(scalars), scalars.damping)
    return memory.with_scalars(
        damping=tf.maximum(raised, LEAST_DAMPING * scalars.initial_damping)
    ), SearchMemory(
        solution,
        iterations,
        tf.cast(found.number(index), tf.int64),
        past.total_cg_iterations + iterations,
    )


def _assign(layout: Layout, values: list[tf.Tensor]) -> None:
    """Assign the variables of one replica, inside a loop."""
    for variable, value in zip(layout.variables, values, strict=True):
        variable.assign(value)
