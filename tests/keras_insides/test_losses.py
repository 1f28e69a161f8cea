"""What `tf_kfgn._keras.losses` says of losses is so."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_kfgn._keras import losses


def test_compiled_losses():
    outputs = {"a": tf.ones((2, 1)), "b": tf.zeros((2, 3))}
    given = {"b": "mse", "a": keras.losses.Huber(0.5)}
    found, names = losses.compiled_losses(given, None, outputs)
    assert {one.path for one in found} == {("a",), ("b",)}
    assert {type(one.loss) for one in found if one.path == ("a",)} == {keras.losses.Huber}
    assert [one.weight for one in found] == [None, None]
    [single], names = losses.compiled_losses("mse", None, outputs["b"])
    assert (single.path, names) == ((), ())
    assert single.loss.fn is keras.losses.mean_squared_error


def test_compiled_losses_of_a_compiled_model():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, [keras.layers.Dense(1, name=n)(inputs) for n in ("a", "b")])
    model.compile("sgd", loss=["mse", "mae"], loss_weights=[1.0, 2.0])
    y = [np.zeros((4, 1)), np.zeros((4, 1))]
    model.train_on_batch(np.ones((4, 2)), y)
    found, names = losses.compiled_losses(model._compile_loss, y, model(np.ones((4, 2))))
    assert [one.weight for one in found] == [1.0, 2.0]
    assert names == ("a", "b")


def test_loss_function():
    function, options = losses.loss_function(
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=3)
    )
    assert function is keras.losses.sparse_categorical_crossentropy
    assert options["from_logits"] is True
    assert options["ignore_class"] == 3

    class Own(keras.losses.MeanSquaredError):
        def call(self, y_true, y_pred):
            return keras.ops.mean(y_pred, -1)

    assert losses.loss_function(Own()) == (None, {})


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_logits_behind(head, graph):
    def behind(logits):
        return losses.logits_behind(keras.activations.get(head)(logits))

    logits = tf.constant([[1.0, -2.0]])
    found = (tf.function(behind) if graph else behind)(logits)
    np.testing.assert_array_equal(found, logits)
    assert losses.logits_behind(keras.activations.tanh(logits)) is None


def test_built_loss():
    outputs = [tf.ones((2, 1)), tf.zeros((2, 3))]
    built = losses.built_loss(["mse", "mae"], None, outputs)
    assert built.built
    assert losses.built_loss(built, None, outputs) is built
    found = tf.function(lambda: built(outputs, [output + 1 for output in outputs]))()
    np.testing.assert_allclose(found, 2.0)  # a graph finds nothing left to make
