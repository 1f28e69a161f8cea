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

Averaging starts anew, with nothing held back, when the data have changed: after `SURPRISES` batches
in a row whose objective stands out, or when a step was taken back to where it began.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.proposal import Proposal
from tf_kfgn.optimizers.settings import Settings

SURPRISES = 2


class Release(NamedTuple):
    """What leaves the reserve, and what stays in it; both empty where none is kept.

    Attributes:
        coming: `c (r + (1 - λ) δ)`, one tensor for each variable.
        left: The new r.
    """

    coming: list[tf.Tensor]
    left: list[tf.Tensor]

    def added(self, weights: list[tf.Tensor]) -> list[tf.Tensor]:
        """The weights after it has come in."""
        if not self.coming:
            return weights
        return [w + tf.cast(c, w.dtype) for w, c in zip(weights, self.coming, strict=True)]


def keeps_reserve(settings: Settings) -> bool:
    """Whether parts of steps are held back: the model chooses them, and averages are kept."""
    return settings.chooses_step and settings.gradient_decay > 0


def released(memory: Memory, proposal: Proposal) -> Release:
    """Mix what is held back of a step into the reserve, and take out what comes in with it.

    Args:
        memory: The optimizer's memory, before the step.
        proposal: The step.
    """
    if not memory.reserve:
        return Release([], [])
    count = tf.cast(memory.scalars.averaged_steps, memory.scalars.damping.dtype)
    share = 1 / (count + 2)
    pool = [r + h for r, h in zip(memory.reserve, proposal.held_back, strict=True)]
    coming = [tf.cast(share, p.dtype) * p for p in pool]
    return Release(coming, [p - c for p, c in zip(pool, coming, strict=True)])


def with_release(memory: Memory, release: Release, taken: tf.Tensor) -> Memory:
    """Keep the new reserve, if the step was taken.

    Args:
        memory: The optimizer's memory.
        release: What came in.
        taken: Whether the weights moved.
    """
    if not memory.reserve:
        return memory
    left = tf.cond(taken, lambda: release.left, lambda: memory.reserve)
    count = memory.scalars.averaged_steps + tf.cast(taken, tf.int64)
    return memory._replace(reserve=left).with_scalars(averaged_steps=count)


def without_last_release(memory: Memory, weights: list[tf.Tensor]) -> list[tf.Tensor]:
    """The weights without what came in with the last step: `c / (1 - c)` of what was left then.

    Args:
        memory: The optimizer's memory, after that step.
        weights: From which to take it.
    """
    if not memory.reserve:
        return weights
    share = tf.math.divide_no_nan(1.0, tf.cast(memory.scalars.averaged_steps, tf.float32))
    return [
        w - tf.cast(share, w.dtype) * tf.cast(r, w.dtype)
        for w, r in zip(weights, memory.reserve, strict=True)
    ]


def started_anew(memory: Memory, now: tf.Tensor) -> Memory:
    """Forget the average and what was held back.

    Args:
        memory: The optimizer's memory.
        now: Whether to.
    """
    if not memory.reserve:
        return memory
    count = memory.scalars.averaged_steps
    return memory._replace(
        reserve=tf.cond(
            now, lambda: [tf.zeros_like(r) for r in memory.reserve], lambda: memory.reserve
        )
    ).with_scalars(averaged_steps=tf.where(now, tf.zeros_like(count), count))


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
