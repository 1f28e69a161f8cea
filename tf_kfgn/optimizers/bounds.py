"""How long a step may be: a bound that holds in every update and costs nothing.

The model of one batch knows nothing of where it ends. Where the outputs are saturated, or the
batch is not like the others, it promises more than the objective can give, and its minimiser is
far away. Two facts bound the step `δ` along its own line, where the model changes by
`-s t + 1/2 c t^2` with the predicted fall s to first order and the curvature c:

- an objective that cannot be negative falls by no more than itself, so that s may be no more than
  `MOST_OF_OBJECTIVE` of it;
- beyond twice the minimiser the model itself predicts a rise, so that a learning rate above 1
  lengthens the step to at most `OVERRELAXATION` times the minimiser.

And one fact about batches: the part of the objective that steps promise changes slowly. A batch
whose own gradient promises `OUTLYING` times as much as usual has an example in it that no curvature
explains, for instance of an exponential penalty, which has none. Its step is shortened to that, and
its gradient enters the average (`averaging`) with as much less weight.
"""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn.optimizers.averaging import running_geometric_mean
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.step_size import QuadraticModel

MOST_OF_OBJECTIVE = 0.5
OVERRELAXATION = 1.5

# A batch with a larger objective than this many times the usual one is not like the others.
UNUSUAL = 10.0

# A promise of more than this many times the usual one is not kept.
OUTLYING = 10.0

# Weight of the old usual promise when a new one comes.
_DECAY = 0.8


def within_bounds(
    model: QuadraticModel, coefficients: tf.Tensor, room: tf.Tensor | None
) -> tf.Tensor:
    """Coefficients that are shortened as far as the bounds demand.

    Args:
        model: M on the span of two directions.
        coefficients: Of the step, shape `(2,)`.
        room: The largest fall that may be predicted to first order, or None if it is not known.
    """
    fall = -tf.tensordot(coefficients, model.slope, 1)
    curved = 2 * model.curved(coefficients)
    one = tf.ones_like(fall)
    length = tf.where(curved > 0, OVERRELAXATION * fall / tf.where(curved > 0, curved, one), one)
    if room is not None:
        length = tf.minimum(length, room / tf.where(fall > 0, fall, one))
    return coefficients * tf.where(fall > 0, tf.minimum(length, one), one)


def room_below(memory: Memory, batch: Batch, objective: tf.Tensor | None) -> tf.Tensor | None:
    """How far the objective may be predicted to fall in one step, to first order.

    Where nothing is known of its least value, as far as it was from 0 at the start.

    Args:
        memory: The optimizer's memory.
        batch: What the batch brings.
        objective: Before the step, if it is known.

    Returns:
        A scalar; None if the objective is not known.
    """
    if objective is None or batch.tape is None:
        return None
    scalars, magnitude = memory.scalars, tf.abs(objective)
    if not batch.tape.losses_are_nonnegative:
        return MOST_OF_OBJECTIVE * tf.maximum(magnitude, tf.abs(scalars.initial_objective))
    usual = UNUSUAL * scalars.usual_objective
    return MOST_OF_OBJECTIVE * tf.where(usual > 0, tf.minimum(magnitude, usual), magnitude)


def promised(fall: tf.Tensor, room: tf.Tensor | None) -> tf.Tensor:
    """What a step promises, in units of what it may: 0 if nothing, or if nothing is known of that.

    Args:
        fall: The fall of the batch's own objective that is predicted to first order.
        room: As of `room_below`.
    """
    zero = tf.zeros_like(fall)
    if room is None:
        return zero
    promise = tf.math.divide_no_nan(fall, room)
    return tf.where(tf.math.is_finite(promise), tf.maximum(promise, zero), zero)


def share_of_outlier(memory: Memory, promise: tf.Tensor) -> tf.Tensor:
    """What a step and a gradient are multiplied with: 1, but less where the promise is unusual.

    Args:
        memory: The optimizer's memory.
        promise: As of `promised`.
    """
    most = OUTLYING * memory.scalars.usual_promise
    one = tf.ones_like(promise)
    return tf.where((most > 0) & (promise > most), most / tf.where(promise > 0, promise, one), one)


def with_usual_promise(memory: Memory, promise: tf.Tensor, learns: tf.Tensor) -> Memory:
    """Mix a promise into the usual one: a geometric mean, which an outlier moves little.

    Args:
        memory: The optimizer's memory.
        promise: As of `promised`; passed over if there is none.
        learns: Whether it counts.
    """
    usual = memory.scalars.usual_promise
    given = learns & (promise > 0)
    safe = tf.where(given, promise, tf.ones_like(promise))
    mean = running_geometric_mean(usual, safe, _DECAY)
    return memory.with_scalars(usual_promise=tf.where(given, mean, usual))
