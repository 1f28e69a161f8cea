"""What `tf_kfgn._keras.tapes` says of gradient tapes is so."""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn._keras import tapes


def test_is_recording():
    tape = tf.GradientTape(persistent=True)
    assert not tapes.is_recording(tape)
    with tape:
        assert tapes.is_recording(tape)
        with tape.stop_recording():
            assert not tapes.is_recording(tape)
    assert not tapes.is_recording(tape)
