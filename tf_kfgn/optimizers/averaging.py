"""How much of earlier gradients and factors is kept: as much as the batches disagree.

A direction that one batch made fits the noise of that batch: along it the batch's own curvature
is far larger than that of any other, and the step size comes out too small. How much larger is
known at no cost, since every update multiplies the curvature of its batch with the step before:

    R = δ^T C_t δ / δ^T C_{t+1} δ,    δ the step that batch t made.

R is near 1 where all batches tell the same, as with the whole training set in each, and rises with
the noise. The direction is preconditioned from

    ḡ <- β ḡ + (1 - β) g,    β = min(1 - 1/R, decay),

so that it is the gradient itself at R = 1, and an average over about R batches otherwise.

The same holds for the factors: what is old in their averages is out of date by as much as the
weights have moved since, and worth having only where it takes noise out of the new ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.settings import Settings

# Weight of the old R when a new one comes, where a single one is clipped, and how many times the
# old R it may be: one batch of another kind, of a single row say, is no noise of the others.
_DECAY = 0.9
_RANGE = (0.1, 100.0)
_LARGEST_RISE = 10.0


def averaged_gradient(
    settings: Settings,
    memory: Memory,
    gradient: Sequence[tf.Tensor],
    share: tf.Tensor | float = 1.0,
) -> list[tf.Tensor]:
    """ḡ, after this gradient has entered it.

    Args:
        settings: The optimizer's settings.
        memory: Its memory.
        gradient: g, one tensor for each variable.
        share: What it is multiplied with.

    Returns:
        One tensor for each variable; g itself where no average is kept.
    """
    if not memory.mean_gradient:
        return list(gradient)
    beta = weight_of_old_gradients(settings, memory)
    return [
        tf.cast(beta, new.dtype) * old + tf.cast((1 - beta) * share, new.dtype) * new
        for old, new in zip(memory.mean_gradient, gradient, strict=True)
    ]


def weight_of_old(noise_ratio: tf.Tensor, limit: float) -> tf.Tensor:
    """`min(1 - 1/R, limit)`; 0 until R is known."""
    return tf.minimum(1 - 1 / tf.maximum(noise_ratio, 1), tf.constant(limit, noise_ratio.dtype))


def weight_of_old_gradients(settings: Settings, memory: Memory) -> tf.Tensor:
    """β, the weight of earlier gradients in their average.

    Args:
        settings: The optimizer's settings.
        memory: Its memory, before the gradient has entered.
    """
    return weight_of_old(memory.scalars.noise_ratio, settings.gradient_decay)


def weight_of_old_factors(settings: Settings, memory: Memory) -> tf.Tensor:
    """ε: as β, but at most `1 - 1/k` for the k-th estimate, and that until R is known.

    Args:
        settings: The optimizer's settings.
        memory: Its memory, before the estimate has entered.
    """
    ratio = memory.scalars.noise_ratio
    known = tf.where(ratio > 0, ratio, tf.constant(math.inf, ratio.dtype))
    count = tf.cast(memory.scalars.factor_updates + 1, ratio.dtype)
    return tf.minimum(1 - 1 / count, weight_of_old(known, settings.curvature_decay))


def share_taken_at_once(settings: Settings, memory: Memory) -> tf.Tensor:
    """λ: of a step that the model chose; less where batches disagree, or whole steps lead nowhere.

    Args:
        settings: The optimizer's settings.
        memory: Its memory.
    """
    scalars = memory.scalars
    if not memory.reserve:
        return scalars.trust
    return tf.minimum(scalars.trust, 1 - weight_of_old_gradients(settings, memory))


def running_mean(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """A mean with the same decay; the new value itself where there is no old one (0)."""
    return tf.where(old > 0, _DECAY * old + (1 - _DECAY) * new, new)


def running_geometric_mean(old: tf.Tensor, new: tf.Tensor, decay: float) -> tf.Tensor:
    """A mean of positive numbers that an outlier moves little; the new one where the old is 0."""
    mean = tf.exp(decay * tf.math.log(old) + (1 - decay) * tf.math.log(new))
    return tf.where(old > 0, mean, new)


def with_noise_ratio(memory: Memory, fresh_curvature: tf.Tensor, learns: tf.Tensor) -> Memory:
    """Measure R of the last step, if it was made and has curvature.

    Args:
        memory: The optimizer's memory, before it learns of a new step.
        fresh_curvature: δ₀^T C δ₀ on the batch after the one that made δ₀.
        learns: Whether anything is learnt from this batch; nothing of an empty one.
    """
    scalars = memory.scalars
    known = (scalars.last_moved > 0) & (scalars.own_curvature > 0) & (fresh_curvature >= 0)
    least, most = _RANGE
    old = tf.where(scalars.noise_ratio > 0, scalars.noise_ratio, tf.ones_like(fresh_curvature))
    most = tf.minimum(_LARGEST_RISE * tf.maximum(old, 1), most)
    ratio = tf.math.divide_no_nan(scalars.own_curvature, fresh_curvature)
    ratio = tf.where(fresh_curvature > 0, tf.clip_by_value(ratio, least, most), most)
    mixed = _DECAY * old + (1 - _DECAY) * ratio
    usable = learns & known & tf.math.is_finite(mixed)
    return memory.with_scalars(noise_ratio=tf.where(usable, mixed, scalars.noise_ratio))
