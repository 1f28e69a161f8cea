"""What `tf_kfgn._keras.optimizers` says of optimizers is so."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras import optimizers

START, GRADIENT = [1.0, 2.0], [3.0, 4.0]


def weights():
    return keras.Variable(START, name="weights")


class Watched(optimizers.HookedOptimizer):
    """Notes what its hooks are given, and moves the variables to zero."""

    @contextlib.contextmanager
    def while_applying(self, gradients, variables):
        self.notes = [
            "before",
            *(tf.convert_to_tensor(g).numpy() for g in gradients),
            variables[0].numpy(),
        ]
        yield
        self.notes.append("after")

    def move_variables(self, gradients, variables, learning_rate):
        self.notes += [*(tf.convert_to_tensor(g).numpy() for g in gradients), variables[0].numpy()]
        self.notes.append(float(learning_rate))
        for variable in variables:
            variable.assign(tf.zeros_like(variable))


def test_hooked_optimizer():
    """The first hook sees the gradient itself, the second what clipping and decay left."""
    optimizer = Watched(learning_rate=0.1, clipvalue=3.5, weight_decay=0.5)
    variable = weights()
    optimizer.apply([tf.constant(GRADIENT)], [variable])
    expected = ["before", GRADIENT, START, [3.0, 3.5], np.multiply(0.95, START), 0.1, "after"]
    for note, value in zip(optimizer.notes, expected, strict=True):
        if isinstance(value, str):
            assert note == value
        else:
            np.testing.assert_allclose(note, value, rtol=1e-6)
    np.testing.assert_array_equal(variable, [0.0, 0.0])
    assert int(optimizer.iterations) == 1


def test_hooked_optimizer_moves_with_the_last_batch_of_several():
    optimizer, variable = Watched(learning_rate=0.1, gradient_accumulation_steps=2), weights()
    optimizer.apply([tf.constant(GRADIENT)], [variable])
    np.testing.assert_array_equal(variable, START)
    optimizer.apply([3 * tf.constant(GRADIENT)], [variable])
    np.testing.assert_allclose(optimizer.notes[3], np.multiply(2, GRADIENT))  # the mean
    np.testing.assert_array_equal(variable, [0.0, 0.0])


def built(variables, **kwargs):
    optimizer = keras.optimizers.SGD(0.1, **kwargs)
    optimizer.build(variables)
    return optimizer


def test_index_of():
    variables = [weights(), weights(), weights()]
    optimizer = built(variables)
    assert [optimizers.index_of(optimizer, v) for v in variables] == [0, 1, 2]
    assert optimizers.index_of(optimizer, variables[1].value) == 1


def test_number_of_calls():
    variable = weights()
    optimizer = built([variable], gradient_accumulation_steps=2)
    for _ in range(3):
        optimizer.apply([tf.constant(GRADIENT)], [variable])
    assert int(optimizers.number_of_calls(optimizer)) == 3
    assert int(optimizer.iterations) == 1


def test_averages_of_weights():
    variable = weights()
    optimizer = built([variable], use_ema=True, ema_momentum=0.5)
    optimizer.apply([tf.constant(GRADIENT)], [variable])
    optimizer.apply([tf.constant(GRADIENT)], [variable])
    [average] = optimizers.averages_of_weights(optimizer)
    moved = [np.subtract(START, 0.1 * n * np.array(GRADIENT)) for n in (1, 2)]
    np.testing.assert_allclose(average, np.mean(moved, axis=0), rtol=1e-6)
    assert any(average is v for v in optimizer.variables)
    assert optimizers.averages_of_weights(built([variable])) == []


def test_accumulated_gradients():
    variable = weights()
    optimizer = built([variable], gradient_accumulation_steps=2)
    optimizer.apply([tf.constant(GRADIENT)], [variable])
    [total] = optimizers.accumulated_gradients(optimizer)
    np.testing.assert_array_equal(total, GRADIENT)
    assert any(total is v for v in optimizer.variables)
    assert optimizers.accumulated_gradients(built([variable])) == []
