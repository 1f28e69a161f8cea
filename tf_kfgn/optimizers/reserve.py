"""The part of a step that is held back where batches disagree, and comes in as an average.

A step that one batch made ends where that batch wants it. Taken whole, again and again, such steps
keep the weights at a distance from the minimum of all data that no further step makes smaller;
shortened, they make no progress in the directions that curve little. Averaging does neither. Of
three sequences of weights (Defazio et al., 2024, "The Road Less Scheduled", arXiv:2405.15682)

    z <- z + δ                     takes whole steps,
    x <- (1 - c) x + c z           is their mean, with c = 1/(n + 1) after n steps,
    y  = λ z + (1 - λ) x           is where the gradient and the curvature are taken.

The model's weights are y. What is kept beside them is the reserve `r = (1 - λ) (z - x)`, so that

    y <- y + λ δ + c (r + (1 - λ) δ),
    r <- (1 - c) (r + (1 - λ) δ).

λ is 1 where batches agree, and then whole steps are taken. Where the noise ratio R (`averaging`) is
above 1 it is 1/R, as the weight of the newest gradient in its average, and less where the next
batch says that even this leads nowhere (`trust`). It need not be constant, since all that was held
back is in r. No horizon has to be known.

A step size that collapses leaves z where it is, and x goes on towards it for ever, wherever it
lies. So what is held back has to lead down: `g^T r`, the slope towards z, is known at no cost, and
as far as it is positive again and again a part of r is given up, which brings z nearer to y.

Averaging starts anew, with nothing held back, when the data have changed: after `SURPRISES` batches
in a row whose objective stands out, or when a step was taken back to where it began.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_kfgn.numerics.choice import select, zeros_if
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.proposal import Proposal, zero_unless
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.optimizers.votes import heard

SURPRISES = 2

# Of log r, for one update, where all slopes along it are positive.
GIVEN_UP = 0.1


def keeps_reserve(settings: Settings) -> bool:
    """Whether parts of steps are held back: the model chooses them, and averages are kept."""
    return settings.chooses_step and settings.gradient_decay > 0


def with_held_back(memory: Memory, proposal: Proposal, moving: Sequence[bool]) -> Memory:
    """Mix what is held back of a step into the reserve, as far as that leads down; count the step.

    Args:
        memory: The optimizer's memory, before the step.
        proposal: The step.
        moving: Whether each variable moves. Of one that does not, the reserve is given up.

    Returns:
        The memory after the step; `released` is what comes in with it.
    """
    if not memory.reserve:
        return memory
    scalars = memory.scalars
    count = scalars.averaged_steps + 1
    left = tf.cast(count / (count + 1), scalars.damping.dtype)  # 1 - c
    _, uphill, usual = heard(proposal.reserve_slope, scalars.uphill, scalars.usual_reserve_slope)
    kept = tf.exp(-GIVEN_UP * tf.square(tf.maximum(uphill, 0)))
    mixed = [
        tf.cast(left * kept, r.dtype) * r + tf.cast(left * proposal.held_back, r.dtype) * d
        for r, d in zip(memory.reserve, proposal.step, strict=True)
    ]
    return memory._replace(reserve=zero_unless(moving, mixed)).with_scalars(
        averaged_steps=count, uphill=uphill, usual_reserve_slope=usual
    )


def released(memory: Memory) -> list[tf.Tensor]:
    """What came in with the last step: `c / (1 - c)` of what is left; empty without a reserve.

    Args:
        memory: The optimizer's memory, after that step.
    """
    count = memory.scalars.averaged_steps
    return [tf.math.divide_no_nan(r, tf.cast(count, r.dtype)) for r in memory.reserve]


def with_reserve_of(memory: Memory, other: Memory, now: tf.Tensor) -> Memory:
    """The same memory, but with the reserve of another one.

    Args:
        memory: The optimizer's memory.
        other: Where the reserve is taken from.
        now: Whether to.
    """
    if not memory.reserve:
        return memory
    mine, others = memory.scalars, other.scalars
    return memory._replace(reserve=select(now, other.reserve, memory.reserve)).with_scalars(
        **{
            name: tf.where(now, getattr(others, name), getattr(mine, name))
            for name in ("averaged_steps", "uphill", "usual_reserve_slope")
        }
    )


def started_anew(memory: Memory, now: tf.Tensor) -> Memory:
    """Forget the average and what was held back.

    Args:
        memory: The optimizer's memory.
        now: Whether to.
    """
    if not memory.reserve:
        return memory
    count = memory.scalars.averaged_steps
    return memory._replace(reserve=zeros_if(now, memory.reserve)).with_scalars(
        averaged_steps=tf.where(now, tf.zeros_like(count), count)
    )


def with_surprise(memory: Memory, stands_out: tf.Tensor) -> Memory:
    """Count batches in a row that are unlike the others, and start anew when the data changed.

    Args:
        memory: The optimizer's memory.
        stands_out: Whether the objective of this batch is far above the usual one.
    """
    surprises = tf.where(stands_out, memory.scalars.surprises + 1, 0)
    changed = surprises >= SURPRISES
    memory = memory.with_scalars(surprises=tf.where(changed, tf.zeros_like(surprises), surprises))
    return started_anew(memory, changed)
