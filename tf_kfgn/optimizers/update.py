"""One update, from gradient to new memory, as functions of settings, layout and memory.

After Botev, Ritter & Barber (2017), appendix, and Martens & Grosse (2015), section 7:

1. on their periods, new Kronecker factors enter the averages and the damped factors are inverted;
2. the gradient is preconditioned block by block: Δ = -(A ⊗ G, damped)⁻¹ ḡ;
3. (α, μ) minimise the exact Gauss-Newton model of the mini-batch over Δ and the previous step δ₀,
   within bounds;
4. the weights move by δ = learning_rate · (α Δ + μ δ₀), unless δ is not finite, and as far as
   batches disagree by a part of it and an average of the parts that were held back (`reserve`);
5. on its period, and always after a bad prediction or before an unusual step, the damping follows
   the ratio of actual to predicted change, and a step that raised the objective is taken back.

Three things are ours: in so far as the batches disagree, the gradient of step 2 is averaged over
earlier batches (`averaging`), and so are the steps (`reserve`); and a batch whose objective is far
from the usual one asks whether the last step was at fault, and takes it back if it was (`retreat`).

`refresh` is the first of these, `move` the others. Both take and give back values; the only
variables they touch are the weights, which `move` stores outside of any condition: a mirrored
variable must not be assigned inside one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.blocks.collection import Estimates
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.numerics.choice import select
from tf_kfgn.optimizers.accumulation import Accumulated
from tf_kfgn.optimizers.averaging import running_mean, with_noise_ratio
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.bounds import room_below, with_usual_promise
from tf_kfgn.optimizers.comparison import (
    acceptable,
    comparison_due,
    is_informative,
    is_measurable,
    measured,
)
from tf_kfgn.optimizers.curvature import factors_due, with_factors, with_mean_factors
from tf_kfgn.optimizers.damping import (
    floor,
    reduction_ratio,
    with_adapted_damping,
    with_initial_damping,
)
from tf_kfgn.optimizers.directions import with_thin_gradients
from tf_kfgn.optimizers.inversion import with_inverses
from tf_kfgn.optimizers.joined_weights import JoinedWeights
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.objective import (
    is_unusual,
    known_objective,
    stands_out,
    with_usual_objective,
)
from tf_kfgn.optimizers.proposal import Proposal, propose
from tf_kfgn.optimizers.reserve import (
    released,
    started_anew,
    with_held_back,
    with_reserve_of,
    with_surprise,
)
from tf_kfgn.optimizers.retreat import is_much_better, seems_astray, with_retreat
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.optimizers.trust import with_trust
from tf_kfgn.recording.tape import CurvatureTape


def refresh(
    settings: Settings,
    layout: Layout,
    memory: Memory,
    tape: CurvatureTape,
    estimate: Callable[[], Estimates],
    iteration: tf.Tensor,
    is_last_batch: Callable[[], tf.Tensor],
) -> Memory:
    """Renew the curvature: initial damping, factors, averages, inverses.

    Args:
        settings: The optimizer's settings.
        layout: Its variables and blocks.
        memory: Its memory.
        tape: The recorded pass.
        estimate: Estimates new factors from it.
        iteration: Number of updates before this one.
        is_last_batch: Whether the weights move with this batch; called where an update takes
            several.
    """
    memory = with_initial_damping(settings, memory, tape, iteration)
    due = factors_due(settings, memory, iteration)
    if isinstance(memory.accumulated, Accumulated):
        sums = memory.accumulated.with_batch(due, estimate)
        return with_mean_factors(settings, layout, memory, sums, is_last_batch(), iteration)
    memory = with_factors(settings, layout, memory, due, estimate)
    return with_inverses(settings, layout, memory, iteration)


def move(settings: Settings, layout: Layout, memory: Memory, batch: Batch) -> Memory:
    """Move the weights: precondition, choose (α, μ), try, compare, and keep or take back.

    Args:
        settings: The optimizer's settings.
        layout: Its variables and blocks; the variables are assigned.
        memory: Its memory, after `refresh`.
        batch: What the batch brings.
    """
    batch = with_thin_gradients(layout, batch)
    weights = JoinedWeights.of(layout, batch.moving)
    joined = weights.joined_memory(memory)
    return weights.separated(_moved(settings, weights, joined, weights.joined_batch(batch)))


def _moved(settings: Settings, weights: JoinedWeights, memory: Memory, batch: Batch) -> Memory:
    """As `move`, with memory and batch in joined tensors."""
    objective = known_objective(batch, memory.scalars.damping.dtype)
    unusual = is_unusual(memory, batch, objective)
    last, memory = memory, with_surprise(memory, stands_out(memory, unusual, objective))
    proposal = propose(settings, weights, memory, batch, room_below(memory, batch, objective))
    old = weights.read()
    moved = [w + d for w, d in zip(old, proposal.step, strict=True)]
    finite = proposal.is_finite & batch.has_examples
    if objective is not None:  # it may have overflown
        finite &= tf.math.is_finite(objective)
    new = select(finite, moved, old)
    if not is_measurable(settings, batch):
        after_step = with_held_back(memory, proposal, batch.moving)
        kept = select(finite, with_release(after_step, new), old)
        weights.store(kept)
        memory = with_step(settings, memory, proposal, finite, finite, finite, objective)
        return with_reserve_of(memory, after_step, finite)

    # One more forward pass at most: after the step, or where the last one began.
    astray = seems_astray(memory, unusual)
    due = finite & comparison_due(settings, memory, proposal, batch.iteration) & ~astray
    before = measured(batch, due | astray, tf.zeros_like(proposal.change))

    def back() -> list[tf.Tensor]:
        return without_last_step(last, old)

    weights.store(tf.cond(astray, back, lambda: new))
    after = replicas.total(measured(batch, due | astray, before, again=True))
    before = replicas.total(before)
    trial = Trial(objective, old, new, back, finite, due, astray, before, after)
    return judged(settings, weights.store, memory, batch, proposal, trial)[0]


class Trial(NamedTuple):
    """A step that was tried, and what is looked at.

    Attributes:
        objective: The objective before it, if it is known at no cost.
        old: The weights before it.
        new: The weights after it.
        back: Gives the weights before the last step.
        finite: Whether step and objective are.
        due: Whether the objective after the step is compared with that before it.
        astray: Whether the objective without the last step is compared with that before this one.
        before: The objective before the step, where either is.
        after: The objective after it, or without the last one; `before` where none was measured.
    """

    objective: tf.Tensor | None
    old: list[tf.Tensor]
    new: list[tf.Tensor]
    back: Callable[[], list[tf.Tensor]]
    finite: tf.Tensor
    due: tf.Tensor
    astray: tf.Tensor
    before: tf.Tensor
    after: tf.Tensor


def without_last_step(memory: Memory, weights: list[tf.Tensor]) -> list[tf.Tensor]:
    """The weights before the last step, and before what came in with it."""
    for moves in (memory.previous_step, released(memory)):
        if moves:
            weights = [w - tf.cast(d, w.dtype) for w, d in zip(weights, moves, strict=True)]
    return weights


def with_release(memory: Memory, weights: list[tf.Tensor]) -> list[tf.Tensor]:
    """The weights with what comes in from the reserve, where one is kept."""
    coming = released(memory)
    return [w + c for w, c in zip(weights, coming, strict=True)] if coming else weights


def judged(
    settings: Settings,
    store: Callable[[list[tf.Tensor]], None],
    memory: Memory,
    batch: Batch,
    proposal: Proposal,
    trial: Trial,
) -> tuple[Memory, tf.Tensor]:
    """Keep the step, take it back, or go back before the last one; adapt the damping.

    Args:
        settings: The optimizer's settings.
        store: Assigns the weights, given as in the trial.
        memory: Its memory.
        batch: What the batch brings.
        proposal: The step.
        trial: How it was tried.

    Returns:
        The new memory, and whether this batch counts.
    """
    objective, old, new, back, finite, due, astray, before, after = trial
    retreats = astray & is_much_better(after, before)
    actual = after - before
    ratio = reduction_ratio(actual, proposal.change, proposal.curved)
    told = due & is_informative(memory.scalars, before, actual, proposal)
    memory = with_adapted_damping(settings, memory, told, ratio)
    taken = finite & (acceptable(settings, batch, actual, ratio) | ~told)
    finite &= tf.math.is_finite(actual) | ~due
    after_step = with_held_back(memory, proposal, batch.moving)
    kept = select(taken, with_release(after_step, new), old)
    store(tf.cond(retreats, back, lambda: kept))
    learns = finite & ~retreats
    memory = with_step(settings, memory, proposal, taken & ~retreats, learns, finite, objective)
    memory = started_anew(with_reserve_of(memory, after_step, taken), retreats)
    comparisons = memory.scalars.comparisons + tf.cast(due | astray, tf.int64)
    return with_retreat(memory.with_scalars(comparisons=comparisons), retreats), learns


def with_step(
    settings: Settings,
    memory: Memory,
    proposal: Proposal,
    taken: tf.Tensor,
    learns: tf.Tensor,
    finite: tf.Tensor,
    objective: tf.Tensor | None,
) -> Memory:
    """Remember the step if it was taken, count it if it was not, and keep the damping's floor.

    Args:
        settings: The optimizer's settings.
        memory: Its memory.
        proposal: The step.
        taken: Whether the weights moved.
        learns: Whether gradient and objective of this batch enter their means.
        finite: Whether the step and the objective after it were finite.
        objective: The objective before the step, if it is known.
    """
    if objective is not None:
        memory = with_usual_objective(memory, objective, learns)
    memory = with_noise_ratio(memory, proposal.fresh_curvature, learns)
    memory = with_usual_promise(memory, proposal.promise, learns)
    memory = with_trust(settings, memory, proposal)
    scalars = memory.scalars
    alpha, mu = tf.unstack(proposal.coefficients)
    mean_gradient, mean_directions = memory.mean_gradient, memory.mean_directions
    if mean_gradient:
        mean_gradient = select(learns, proposal.mean_gradient, mean_gradient)
        of_places = [proposal.mean_directions[place] for place in mean_directions]
        chosen = select(learns, of_places, [*mean_directions.values()])
        mean_directions = dict(zip(mean_directions, chosen, strict=True))
    return memory._replace(
        previous_step=select(taken, proposal.step, memory.previous_step),
        mean_gradient=mean_gradient,
        mean_directions=mean_directions,
    ).with_scalars(
        damping=tf.maximum(scalars.damping, floor(settings, scalars)),
        step_size=tf.where(taken, alpha, scalars.step_size),
        momentum=tf.where(taken, mu, scalars.momentum),
        fresh_slope=tf.where(finite, proposal.fresh_slope, scalars.fresh_slope),
        own_curvature=tf.where(taken, proposal.own_curvature, scalars.own_curvature),
        usual_curvature=tf.where(
            taken & (proposal.curved > 0),
            running_mean(scalars.usual_curvature, proposal.curved),
            scalars.usual_curvature,
        ),
        last_moved=tf.cast(taken, scalars.damping.dtype),
        rejected_steps=scalars.rejected_steps + tf.cast(~taken, tf.int64),
        nonfinite_steps=scalars.nonfinite_steps + tf.cast(~finite, tf.int64),
    )
