"""What `tf_kfgn._keras.tapes` says of gradient tapes is so."""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn._keras import tapes


def test_current_graph():
    assert tapes.current_graph() is None
    tf.function(lambda x: x if tapes.current_graph() is x.graph else None)(tf.constant(1))


def test_is_inside():
    assert tapes.is_inside(None)
    seen = []

    @tf.function
    def function(x):
        graph = tapes.current_graph()
        seen.append(graph)

        def branch():
            assert tapes.current_graph() is not graph
            assert tapes.is_inside(graph)
            return x

        return tf.cond(x > 0, branch, lambda: x)

    function(tf.constant(1))
    assert not tapes.is_inside(seen[0])


def test_is_recording():
    tape = tf.GradientTape(persistent=True)
    assert not tapes.is_recording(tape)
    with tape:
        assert tapes.is_recording(tape)
        with tape.stop_recording():
            assert not tapes.is_recording(tape)
    assert not tapes.is_recording(tape)


def test_may_be_recorded_by_a_tape_or_an_accumulator():
    assert not tapes.may_be_recorded()
    with tf.GradientTape() as tape:
        assert tapes.may_be_recorded()
        with tape.stop_recording():
            assert not tapes.may_be_recorded()
    with tf.autodiff.ForwardAccumulator(tf.constant(1.0), tf.constant(1.0)):
        assert tapes.may_be_recorded()
    assert not tapes.may_be_recorded()
