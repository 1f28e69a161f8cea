"""Recording classes and the rows that a layer with weights shows to estimators."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.swapping.swap import stock_class

X = tf.constant(np.random.default_rng(0).normal(size=(5, 4)))
SEQUENCE = tf.constant(np.random.default_rng(0).normal(size=(5, 2, 4)))


def operation_of(layer, x):
    with tf_kfgn.CurvatureTape() as tape:
        layer(x)
    [operation] = tape.operations
    return operation


def test_rows_are_examples_positions_and_features():
    layer = layers.Dense(3, dtype="float64")
    operation = operation_of(layer, SEQUENCE)
    assert (operation.shared, operation.out_features) == (2, 3)
    rows = operation.input_rows()
    assert rows.shape == (5, 2, 5)
    np.testing.assert_array_equal(rows[..., :-1], SEQUENCE)
    np.testing.assert_array_equal(rows[..., -1], np.ones((5, 2)))
    weights = np.vstack([layer.kernel, layer.bias])
    np.testing.assert_allclose(rows @ weights, operation.output, rtol=1e-12)
    np.testing.assert_array_equal(operation.cotangent_rows(operation.output), operation.output)


def test_without_a_trainable_bias_rows_end_with_the_inputs():
    bare = layers.Dense(3, use_bias=False, dtype="float64")
    assert operation_of(bare, X).input_rows().shape == (5, 1, 4)
    layer = layers.Dense(3, dtype="float64")
    assert operation_of(layer, X).input_rows().shape == (5, 1, 5)
    layer.bias.trainable = False
    assert operation_of(layer, X).input_rows().shape == (5, 1, 4)


def test_every_recording_class_stands_for_its_stock_class():
    for stock, recording in layers.RECORDING_CLASSES.items():
        assert recording.__name__ == stock.__name__
        assert issubclass(recording, stock)
        assert stock_class(recording) is stock
        assert keras.saving.get_registered_name(recording) == f"tf_kfgn>{stock.__name__}"


def test_recording_classes_survive_saving(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((2, 4)),
            layers.Dense(3, "tanh"),
            layers.PReLU(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(4),
            layers.Reshape((2, 2)),
            layers.Softmax(),
        ]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    np.testing.assert_array_equal(loaded(SEQUENCE), model(SEQUENCE))


@pytest.mark.parametrize(
    "adapt", [lambda layer: layer.enable_lora(1), lambda layer: layer.quantize("int8")]
)
def test_a_layer_with_lora_or_quantization_is_refused(adapt):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="adapted")])
    adapt(model.layers[0])
    with pytest.raises(ValueError, match=r"'adapted'.*LoRA.*plain Dense"):
        tf_kfgn.enable_curvature(model)
    assert type(model.layers[0]) is keras.layers.Dense


def test_a_class_with_a_call_of_its_own_records_what_it_says_and_no_more():
    class Double(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), name="scale", initializer="ones")

        def call(self, x):
            return 2 * x * self.scale

    class RecordingDouble(layers.Recording, Double):
        marked = 0

        def build(self, shape):
            super().build(shape)
            self.mark_variables()

        def mark_variables(self):
            self.marked += 1

        def call(self, x):
            outputs, tape = super().call(x), layers.active_tape()
            if tape is not None:
                tape.record(layers.ElementwiseOperation(self, x, outputs))
            return outputs

    layer = RecordingDouble(dtype="float64")
    assert type(operation_of(layer, X)) is layers.ElementwiseOperation
    assert layer.marked == 1

    class MyDense(layers.Dense):  # derived from a class that records
        def call(self, x):
            return 2 * super().call(x)

    operation = operation_of(MyDense(3, dtype="float64"), X)
    assert isinstance(operation, layers.ParametrisedOperation)
