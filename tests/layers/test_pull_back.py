"""Every recorded operation's pull-back against per-example Jacobians."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.layers.operation import MAX_EXACT_WIDTH, Operation, num_features

BATCH = 5


def double(cls, *args, **kwargs):
    return cls(*args, dtype="float64", **kwargs)


@keras.saving.register_keras_serializable("tests")
def mixing(x):
    return x * tf.reduce_sum(x, axis=-1, keepdims=True)


LAYERS = {
    "dense": (double(layers.Dense, 3), (4,)),
    "dense without bias": (double(layers.Dense, 3, use_bias=False), (4,)),
    "dense of rows": (double(layers.Dense, 3), (2, 4)),
    "dense with activation": (double(layers.Dense, 3, activation="tanh"), (4,)),
    "dense with a layer as activation": (
        double(layers.Dense, 3, activation=double(layers.LeakyReLU)),
        (4,),
    ),
    "dense with softmax": (double(layers.Dense, 3, activation="softmax"), (4,)),
    "dense with a function that mixes": (double(layers.Dense, 3, activation=mixing), (4,)),
    "activation": (double(layers.Activation, "gelu"), (4,)),
    "linear activation": (double(layers.Activation, "linear"), (4,)),
    "relu": (double(layers.ReLU), (3, 2)),
    "leaky relu": (double(layers.LeakyReLU, negative_slope=0.3), (4,)),
    "elu": (double(layers.ELU), (4,)),
    "prelu": (double(layers.PReLU, alpha_initializer="uniform"), (4,)),
    "softmax": (double(layers.Softmax), (2, 3)),
    "dropout": (double(layers.Dropout, 0.5, seed=1), (4,)),
    "dropout with noise shape": (double(layers.Dropout, 0.5, noise_shape=(None, 1), seed=1), (4,)),
    "flatten": (double(layers.Flatten), (2, 3)),
    "flatten channels first": (double(layers.Flatten, data_format="channels_first"), (2, 3)),
    "reshape": (double(layers.Reshape, (3, 2)), (6,)),
}


def brute_force(tape, output, input, average):
    """Mean over examples of `J_n^T G J_n`, with J from one gradient for each output."""
    flat_outputs = num_features(output)
    rows = []
    for index in range(flat_outputs):
        unit = np.zeros((BATCH, flat_outputs))
        unit[:, index] = 1
        gradient = tape.gradient(
            output,
            input,
            output_gradients=tf.reshape(tf.constant(unit), tf.shape(output)),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        rows.append(gradient.numpy().reshape(BATCH, -1))
    jacobians = np.stack(rows, axis=1)
    return np.einsum("nki,kl,nlj->ij", jacobians, average, jacobians) / BATCH


@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_pull_back_is_the_mean_of_exact_pull_backs(layer, shape):
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(size=(BATCH, *shape)))
    layer(x)
    for variable in layer.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))

    with tf_kfgn.CurvatureTape() as tape:
        tape.watch(x)
        output = layer(x, training=True) if isinstance(layer, layers.Dropout) else layer(x)
    width = num_features(output)
    root = generator.normal(size=(width, width))
    average = root @ root.T

    pulled = tf.constant(average)
    for operation in reversed(tape.operations):
        pulled = operation.pull_back(pulled, tape)
    if len(tape.operations) == 1:
        expected = brute_force(tape, output, x, average)
    else:  # averaged after each operation
        expected = average
        for operation in reversed(tape.operations):
            expected = brute_force(tape, operation.output, operation.input, expected)
    np.testing.assert_allclose(pulled, expected, rtol=1e-9, atol=1e-11)
    if tape.operations and not isinstance(layer, layers.Flatten | layers.Reshape):
        assert not np.allclose(pulled, brute_force(tape, output, x, np.eye(width)))


@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_a_recording_layer_computes_what_the_stock_layer_computes(layer, shape):
    x = tf.constant(np.random.default_rng(0).normal(size=(BATCH, *shape)))
    layer(x)
    stock = type(layer).stock_class().from_config(layer.get_config())
    stock(x)
    stock.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(x), stock(x))
    with tf_kfgn.CurvatureTape():
        recorded = layer(x)
    np.testing.assert_array_equal(recorded, stock(x))


def test_a_recorded_input_keeps_its_bias_row():
    layer = double(layers.Dense, 3)
    x = tf.constant(np.random.default_rng(0).normal(size=(BATCH, 4)))
    with tf_kfgn.CurvatureTape() as tape:
        layer(x)
    rows = tape.operations[0].input_rows()
    assert rows.shape == (BATCH, 1, 5)
    np.testing.assert_array_equal(rows[:, 0, -1], np.ones(BATCH))
    layer.bias.trainable = False
    assert tape.operations[0].input_rows().shape == (BATCH, 1, 4)


def test_dropout_in_inference_records_nothing():
    with tf_kfgn.CurvatureTape() as tape:
        layers.Dropout(0.5)(tf.ones((2, 3)), training=False)
    assert tape.operations == []


def test_the_exact_rule_refuses_a_wide_output():
    layer = keras.layers.Identity(name="wide")
    tensor = tf.zeros((1, MAX_EXACT_WIDTH + 1))
    operation = Operation(layer, tensor, tensor)
    with pytest.raises(ValueError, match=r"'wide' \(Identity\).*4097 outputs.*KFLR or KFAC"):
        operation.pull_back(tf.zeros((MAX_EXACT_WIDTH + 1, 1)), tf.GradientTape())


def test_a_dynamic_feature_axis_is_refused():
    symbolic = keras.Input((None, 3))
    with pytest.raises(ValueError, match=r"static feature axes.*keras\.Input"):
        num_features(tf.TensorSpec(symbolic.shape))


def test_every_recording_class_stands_for_its_stock_class():
    for stock, recording in layers.RECORDING_CLASSES.items():
        assert recording.__name__ == stock.__name__
        assert issubclass(recording, stock)
        assert recording.stock_class() is stock
        assert keras.saving.get_registered_name(recording) == f"tf_kfgn>{stock.__name__}"


def test_a_layer_with_lora_is_refused():
    dense = layers.Dense(3)
    dense.build((None, 4))
    dense.enable_lora(1)
    with pytest.raises(ValueError, match="LoRA"):
        dense.mark_variables()
