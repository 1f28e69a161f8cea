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
