"""How much of the step that the model of one batch chose is taken at once: less, once noise rules.

The model of one batch says nothing of how far its minimiser is from that of all data. The next
batch does, at no cost: every update measures the slope `s = g^T δ₀` and the curvature
`c = δ₀^T C δ₀` along the last step δ₀ on a batch that did not make it. Of a quadratic objective the
change that the last step made is, in expectation, `s - c/2`:

- `s = 0`: the step ended in the minimum along its line;
- `s = c/2`: it ended as high as it began. Steps of this length stand still, however long the run;
- `s < 0`: it should have been longer.

So the largest share of each step that is taken at once, λ, follows `o c - s`, where o, the
overshoot that is tolerated, is a little below 1/2: steps stay as long as progress allows, since the
directions in which the objective curves least need long ones, and get shorter where there would be
none. With the same batch in every update s is 0, and λ stays at 1.

What is not taken at once is held back (`reserve`), or given up where no reserve is kept.

One `o c - s` is mostly noise. It is measured by its own mean magnitude, and λ moves by a factor of
about `exp(±RATE)`, faster where many of them agree: after a start from good weights, and when the
data change.
"""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.proposal import Proposal
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.optimizers.votes import heard

# Of log λ, for one average `o c - s`.
RATE = 0.03

# Times `RATE`, where all agree.
MOST_SPEED = 4.0

# λ stays above it. Batches of one pass over the data have no example in common, so that s is larger
# on the next one than on all data: of a net that fits its examples one by one, λ would vanish while
# whole steps still make progress (the autoencoder of `examples/autoencoder.py`, after 500 updates).
LEAST = 0.1


def with_trust(settings: Settings, memory: Memory, proposal: Proposal) -> Memory:
    """Learn from the slope and the curvature along the last step on this batch.

    Args:
        settings: The optimizer's settings.
        memory: The optimizer's memory, before it learns of a new step.
        proposal: What this batch proposes.
    """
    if settings.overshoot is None or not settings.chooses_step:
        return memory
    scalars = memory.scalars
    curvature = proposal.fresh_curvature
    room = settings.overshoot * curvature - proposal.fresh_slope
    vote, agreement, magnitude = heard(room, scalars.agreement, scalars.usual_overshoot)
    speed = 1 / (1 + 1 / MOST_SPEED - tf.abs(agreement))
    trust = tf.clip_by_value(scalars.trust * tf.exp(RATE * speed * vote), LEAST, 1.0)
    known = (scalars.last_moved > 0) & (curvature > 0) & tf.math.is_finite(trust)
    return memory.with_scalars(
        trust=tf.where(known, trust, scalars.trust),
        agreement=tf.where(known, agreement, scalars.agreement),
        usual_overshoot=tf.where(known, magnitude, scalars.usual_overshoot),
    )
