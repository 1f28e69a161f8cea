"""What `tf_kfgn._keras.scopes` says of the place of a call is so."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras import scopes


def test_in_symbolic_scope():
    class Layer(keras.layers.Layer):
        seen: tuple = ()

        def call(self, x):
            self.seen += (scopes.in_symbolic_scope(),)
            return x

    layer = Layer()
    keras.Model(inputs := keras.Input((2,)), layer(inputs))
    layer(np.ones((1, 2)))
    assert layer.seen == (True, False)
    assert not scopes.in_symbolic_scope()


def test_maybe_merge_call():
    variable = tf.Variable(1.0)

    def update(strategy, values):
        [value] = values
        strategy.extended.update(variable, lambda v, x: v.assign(x), args=(value,), group=False)

    scopes.maybe_merge_call(update, [tf.constant(2.0)])
    assert float(variable) == 2
    tf.function(lambda: scopes.maybe_merge_call(update, [tf.constant(3.0)]))()
    assert float(variable) == 3


def test_needs_no_merge_call():
    assert scopes.needs_no_merge_call()  # no strategy, so nobody to wait for
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        assert not scopes.needs_no_merge_call()


def test_dropped_assignments():
    variable, regularizer = keras.Variable([1.0]), keras.regularizers.L2(2.0)
    with scopes.DroppedAssignments() as scope:
        assert float(regularizer(scope.get_current_value(variable))) == 2
        variable.assign([3.0])
        variable.assign_add([1.0])
        assert float(variable[0]) == 4
    assert float(variable[0]) == 1


def test_leaving_no_trace():
    class Layer(keras.layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
            self.raw = tf.Variable(0.0)

        def call(self, x):
            self.count.assign_add(1.0)
            self.raw.assign_add(1.0)
            self.add_loss(keras.ops.sum(x))
            return x + self.count

    layer = Layer()
    x = np.ones((1, 2))
    layer(x)
    with scopes.leaving_no_trace([layer]):
        np.testing.assert_array_equal(layer(2 * x), 4 * np.ones((1, 2)))
        assert [float(loss) for loss in layer.losses] == [4]
    assert (float(layer.count), float(layer.raw)) == (1, 1)
    assert [float(loss) for loss in layer.losses] == [4]
