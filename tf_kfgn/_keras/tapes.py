"""The state of TensorFlow's gradient tapes."""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn._keras.inventory import stands_for


@stands_for("tf.GradientTape._recording")
def is_recording(tape: tf.GradientTape) -> bool:
    """Whether a tape records now: `stop_recording` is an error for one that does not."""
    return bool(tape._recording)
