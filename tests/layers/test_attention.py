"""Attention between its projections, against per-example Jacobians of what Keras computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose
from joint import check_rules
from passes import SEED
from problems import MSE, dense, seeded

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.factors import KFLREstimator, KFRAEstimator
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.marks import matrix_of
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.recording.replay import SEEDS, generators_of
from tf_kfgn.swapping.swap import stock_class

N = 3
GENERATOR = np.random.default_rng(5)
MASK = GENERATOR.uniform(size=(N, 2, 3)) < 0.6
MASK[..., 0] = True
PADDING = np.array([[True, True, False], [True, False, False], [True, True, True]])

# class, its arguments, shapes of query, value and key, arguments of the call
SELF, CROSS = [(3, 4)], [(2, 4), (3, 5), (3, 2)]
CASES = {
    "self": (layers.MultiHeadAttention, (2, 2), {}, SELF, {}),
    "no bias": (layers.MultiHeadAttention, (2, 2), {"use_bias": False}, SELF, {}),
    "one head": (layers.MultiHeadAttention, (1, 3), {}, SELF, {}),
    "values of another size": (
        layers.MultiHeadAttention, (2, 2, 3), {"output_shape": (2, 2)}, CROSS, {},
    ),
    "cross": (layers.MultiHeadAttention, (2, 2), {}, CROSS, {}),
    "mask": (layers.MultiHeadAttention, (2, 2), {}, CROSS, {"attention_mask": MASK}),
    "padding": (layers.MultiHeadAttention, (2, 2), {}, CROSS, {"value_mask": PADDING}),
    "causal": (layers.MultiHeadAttention, (2, 2), {}, SELF, {"use_causal_mask": True}),
    "scores": (layers.MultiHeadAttention, (2, 2), {}, CROSS, {"return_attention_scores": True}),
    "dropout": (layers.MultiHeadAttention, (2, 2), {"dropout": 0.5}, CROSS, {"training": True}),
    "causal with dropout": (
        layers.MultiHeadAttention, (2, 2), {"dropout": 0.5}, SELF,
        {"training": True, "use_causal_mask": True},
    ),
    "two axes": (layers.MultiHeadAttention, (2, 2), {}, [(2, 2, 3)], {}),
    "one axis of two": (
        layers.MultiHeadAttention, (2, 2), {"attention_axes": (1,)}, [(2, 2, 3)], {},
    ),
    "grouped": (layers.GroupQueryAttention, (2, 4, 2), {}, SELF, {}),
    "grouped, cross": (
        layers.GroupQueryAttention, (2, 4, 2), {}, [(2, 4), (3, 4)], {"attention_mask": MASK},
    ),
    "grouped, causal": (layers.GroupQueryAttention, (2, 2, 1), {}, SELF, {"use_causal_mask": True}),
    "grouped, scores and dropout": (
        layers.GroupQueryAttention, (2, 4, 2), {"dropout": 0.5}, SELF,
        {"training": True, "return_attention_scores": True},
    ),
    "every head its own": (layers.GroupQueryAttention, (2, 2, 2), {}, SELF, {}),
}  # fmt: skip
GATED = {
    "gated": (layers.MultiHeadAttention, (2, 2), {"use_gate": True}, SELF, {}),
    "grouped, gated": (layers.GroupQueryAttention, (2, 4, 2), {"use_gate": True}, SELF, {}),
}
try:
    layers.MultiHeadAttention(1, 1, use_gate=True)
    CASES.update(GATED)
except (TypeError, ValueError):  # an older Keras
    pass


def made(case, cls=None):
    """A layer with random weights, and what to call it with."""
    recording, args, kwargs, shapes, call = case
    layer = (cls or recording)(*args, seed=1, dtype="float64", name="attention", **kwargs)
    generator = np.random.default_rng(0)
    inputs = [tf.constant(generator.normal(size=(N, *shape))) for shape in shapes]
    inputs = inputs * 2 if len(inputs) == 1 else inputs
    layer(*inputs)
    for variable in layer.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    for generator in generators_of(layer):
        SEEDS.swap(generator)
    return layer, inputs, call


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def recorded(case):
    layer, inputs, call = made(case)
    with tf_kfgn.CurvatureTape() as tape:
        outputs = tf.nest.flatten(layer(*inputs, **call))
    return layer, tape, outputs


def attention_of(layer, tape):
    return [op for op in tape.operations if op.layer is layer and type(op) is Operation]


def test_it_computes_what_the_stock_layer_computes(case):
    layer, inputs, call = made(case)
    stock, *_ = made(case, stock_class(type(layer)))
    assert [v.path for v in layer.weights] == [v.path for v in stock.weights]
    with tf_kfgn.CurvatureTape():
        outputs = layer(*inputs, **call)
    expected = stock(*inputs, **call)
    for actual, value in zip(tf.nest.flatten(outputs), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(actual, value)


def test_every_kernel_is_a_matrix_of_the_layer(case):
    layer, tape, _ = recorded(case)
    names = {matrix_of(v).name for v in layer.trainable_variables}
    parts = ["query", "key", "value", "attention_output"] + ["gate"] * hasattr(layer, "_gate_dense")
    assert names == {f"attention/{part}" for part in parts}
    assert all(matrix_of(v).layer == "attention" for v in layer.trainable_variables)
    used = [op for op in tape.operations if isinstance(op, ParametrisedOperation)]
    assert {op.matrix.name for op in used} == names
    for operation in used:
        weights = operation.matrix.join([operation.kernel, operation.bias][: 1 + layer_bias(layer)])
        allclose(operation.input_rows() @ weights, operation.cotangent_rows(operation.output))


def layer_bias(layer):
    return bool(layer.get_config()["use_bias"])


def test_one_operation_stands_between_the_projections(case):
    layer, tape, outputs = recorded(case)
    attentions = attention_of(layer, tape)
    assert len(attentions) in {len(outputs), 2}  # some ways of computing it know the scores
    ends = {id(op.output) for op in tape.operations}
    inner = [op for op in tape.operations if op.layer in (layer, layer._output_dense)]
    assert all(id(tensor) in ends for op in inner for tensor in op.inputs)
    assert {id(op.output) for op in inner} >= {id(output) for output in outputs}


def test_the_rules_of_what_lies_between_are_exact(case):
    layer, tape, _ = recorded(case)
    between = [op for op in tape.operations if op.layer is layer]
    kinds = {Operation, LinearOperation, ElementwiseOperation}
    assert {type(op) for op in between} <= kinds
    for operation in between:
        check_rules(operation, tape)


def model_of(case):
    """The attention of a case between layers with weights, in a functional model."""
    _, args, kwargs, shapes, call = case
    call = {key: value for key, value in call.items() if key == "use_causal_mask"}

    def make():
        inputs = [keras.Input(shape, dtype="float64") for shape in shapes]
        given = [dense(shape[-1])(x) for shape, x in zip(shapes, inputs, strict=True)]
        given = given * 2 if len(given) == 1 else given
        attend = stock_class(case[0])(*args, seed=1, dtype="float64", **kwargs)
        return keras.Model(inputs, dense(2)(attend(*given, **call)))

    model = seeded(make)()
    generator = np.random.default_rng(1)
    return model, [tf.constant(generator.normal(size=(N, *shape))) for shape in shapes]


@pytest.mark.parametrize("training", [False, True])
def test_kfra_is_kflr_for_one_example(case, training):
    model, x = model_of(case)
    tf_kfgn.enable_curvature(model)
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model([tensor[:1] for tensor in x], training=training)
        tape.watch_loss(MSE, None, outputs)
    kfra, kflr = (estimator(tape, SEED) for estimator in (KFRAEstimator(), KFLREstimator()))
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    assert len(kfra) == len(kernels)
    for matrix, (_, G) in kfra.items():
        np.testing.assert_allclose(G, kflr[matrix].G, rtol=1e-6, atol=1e-12)


def test_two_layers_have_matrices_of_different_names():
    inputs = keras.Input((3, 4))
    h = keras.layers.MultiHeadAttention(2, 2, name="first")(inputs, inputs)
    h = keras.layers.MultiHeadAttention(2, 2, name="second")(h, h)
    model = keras.Model(inputs, h)
    factors = tf_kfgn.kronecker_factors(model, np.ones((2, 3, 4)), "mse", "kfac")
    assert len(factors) == 8
    assert {name.split("/")[0] for name in factors} == {"first", "second"}
    blocks = tf_kfgn.gauss_newton_blocks(model, np.ones((2, 3, 4)), "mse")
    assert set(blocks) == set(factors)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("name", ["self", "causal", "grouped, causal", "no bias", "two axes"])
def test_enabling_saving_and_disabling_keep_the_predictions(name, direct, tmp_path):
    model, x = model_of(CASES[name])
    before = model.predict(x, verbose=0)
    if direct:
        layer = next(cell for cell in model.layers if "attention" in cell.name)
        layer.__class__ = CASES[name][0]
        model.save(tmp_path / "direct.keras")
        model = keras.saving.load_model(tmp_path / "direct.keras")
    tf_kfgn.enable_curvature(model)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), before)
    layer = next(cell for cell in loaded.layers if "attention" in cell.name)
    assert type(layer) is CASES[name][0]
    assert type(layer._query_dense) is layers.EinsumDense
    assert matrix_of(layer._query_dense.kernel).name == f"{layer.name}/query"
    tf_kfgn.disable_curvature(model)
    for cell in model._flatten_layers(include_self=False):
        assert not isinstance(cell, layers.Recording)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)


def test_an_adapted_projection_is_refused():
    model, _ = model_of(CASES["self"])
    layer = next(cell for cell in model.layers if "attention" in cell.name)
    layer._query_dense.enable_lora(1)
    with pytest.raises(ValueError, match=r"'query'.*LoRA.*plain EinsumDense"):
        tf_kfgn.enable_curvature(model)
    assert type(layer) is keras.layers.MultiHeadAttention
