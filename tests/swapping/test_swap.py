"""One way to swap the class of an object, and one to put it back."""

from __future__ import annotations

import contextlib
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn._keras.layers import flattened_layers
from tf_kfgn.layers.parts import parts
from tf_kfgn.swapping.swap import Role, Swapped, stock_class

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


class Stock:
    """Docstring of the stock class."""

    def greet(self):
        return "stock"


class Polite(Swapped):
    def greet(self):
        return f"dear {super().greet()}"


def test_an_object_gets_its_class_back():
    role, thing = Role(Polite), Stock()
    with contextlib.ExitStack() as undo:
        assert role.swap(thing, undo)
        assert thing.greet() == "dear stock"
        assert (type(thing).__name__, type(thing).__doc__) == ("Stock", Stock.__doc__)
        assert stock_class(type(thing)) is Stock
        assert not role.swap(thing, undo)  # only once
    assert type(thing) is Stock
    role.swap(thing)
    role.restore(thing)
    assert type(thing) is Stock
    role.restore(thing)
    assert type(thing) is Stock


def test_equal_objects_get_the_same_class():
    role, first, second = Role(Polite), Stock(), Stock()
    role.swap(first)
    role.swap(second)
    assert type(first) is type(second)
    assert Role(Polite).counterpart(Stock) is not type(first)


def test_a_registered_class_is_used_and_one_derived_from_it_is_left_alone():
    role = Role(Polite)

    @role.register
    class Formal(Polite, Stock):
        pass

    class Own(Formal):
        pass

    thing = Stock()
    role.swap(thing)
    assert type(thing) is Formal
    own = Own()
    assert not role.swap(own)
    role.restore(own)
    assert type(own) is Own
    assert stock_class(Own) is Stock
    assert stock_class(Stock) is Stock


class OfItsOwn(keras.layers.Layer):
    """A layer whose names could be ours."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.record, self.operation, self.kind = "record", "operation", "kind"
        self.inputs, self.tape = "inputs", "tape"

    def call(self, x, *, factor=2.0, training=False):
        assert (self.record, self.operation, self.kind) == ("record", "operation", "kind")
        return x * factor


def everything():
    """A model with every kind of part: layers, graph operations, nested models, casts, seeds."""
    inner_inputs = keras.Input((4,), dtype="float64")
    inner = keras.Model(inner_inputs, keras.layers.Dense(3, dtype="float64")(inner_inputs))
    inputs = keras.Input((4,))
    h = keras.layers.Dropout(0.5)(keras.layers.Dense(4, "relu")(inputs))
    h = OfItsOwn()(keras.ops.tanh(h) + h)
    return keras.Model(inputs, keras.layers.Dense(2)(inner(h)))


def classes(model):
    """The class of everything that may be swapped."""
    return [type(model)] + [(type(part), part.__class__.__dict__) for _, part in parts(model)]


def state(model):
    variables = [v for layer in flattened_layers(model) for v in layer.variables]
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def test_enabling_and_disabling_a_model_leaves_no_trace():
    model = everything()
    before, predictions = classes(model), model(X)
    tf_kfgn.enable_curvature(model)
    assert all(isinstance(part, Swapped) for _, part in parts(model))
    assert isinstance(model, Swapped)
    np.testing.assert_array_equal(model(X), predictions)
    tf_kfgn.disable_curvature(model)
    assert classes(model) == before
    assert not any(name.startswith("_tf_kfgn") for v in model.variables for name in vars(v))


@pytest.mark.parametrize(
    "look",
    [
        lambda model: tf_kfgn.kronecker_factors(model, X, "mse", "kfac"),
        lambda model: tf_kfgn.kronecker_factors(model, X, "mse", "kflr"),
        lambda model: tf_kfgn.curvature_summary(model, verbose=False),
        lambda model: tf_kfgn.gauss_newton_blocks(model, X, "mse"),
        lambda model: tf_kfgn.gauss_newton_vector_product(
            model, X, "mse", [np.ones(v.shape) for v in model.trainable_variables]
        ),
    ],
    ids=["kfac", "kflr", "summary", "blocks", "product"],
)
def test_calls_that_only_look_leave_a_model_with_dropout_as_they_found_it(look):
    model = everything()
    before, values = classes(model), state(model)
    look(model)
    assert classes(model) == before
    for old, new in zip(values, state(model), strict=True):
        np.testing.assert_array_equal(old, new)
    for layer in flattened_layers(model):
        for attribute in vars(layer).values():
            if isinstance(attribute, keras.random.SeedGenerator):
                assert type(attribute) is keras.random.SeedGenerator


def test_looking_at_an_enabled_model_does_not_disable_it():
    model = tf_kfgn.enable_curvature(everything())
    before = classes(model)
    tf_kfgn.kronecker_factors(model, X, "mse", "kflr")
    assert classes(model) == before


def test_a_refused_model_is_left_as_it_was():
    model = everything()
    model.layers[1].quantize("int8")
    before = classes(model)
    with pytest.raises(ValueError, match="quantized"):
        tf_kfgn.enable_curvature(model)
    assert classes(model) == before


@pytest.mark.parametrize("stock", layers.RECORDING_CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("method", ["call", "build"])
def test_a_recording_class_shows_the_signature_of_its_stock_class(stock, method):
    recording = layers.RECORDING_CLASSES[stock]
    ours, theirs = (inspect.signature(getattr(c, method)) for c in (recording, stock))
    assert list(ours.parameters) == list(theirs.parameters)


def test_a_layer_whose_names_could_be_ours_computes_and_records():
    model = tf_kfgn.enable_curvature(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), OfItsOwn()])
    )
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(X, training=True)
    assert [type(op.layer).__name__ for op in tape.operations] == ["Dense", "OfItsOwn"]
    np.testing.assert_allclose(outputs, 2 * tape.operations[0].output)
    assert "factor" in inspect.signature(model.layers[1].call).parameters


def test_a_layer_without_floating_inputs_is_not_recorded():
    class Count(keras.layers.Layer):
        def call(self, tokens):
            return tf.cast(tokens, "float32")

    model = keras.Sequential([keras.Input((3,), dtype="int32"), Count(), keras.layers.Dense(2)])
    tf_kfgn.enable_curvature(model)
    with tf_kfgn.CurvatureTape() as tape:
        model(np.ones((2, 3), "int32"))
    assert [type(operation.layer).__name__ for operation in tape.operations] == ["Dense"]
