"""Every recorded operation's pull-back against per-example Jacobians of the stock layer."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, example_jacobians, pulled_back, wrong
from passes import record
from problems import MSE, PROBLEMS, dense, random_problem, sequential

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.factors import KFLREstimator, KFRAEstimator
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import ReshapingOperation
from tf_kfgn.operations.operation import MAX_EXACT_WIDTH, Operation
from tf_kfgn.swapping.swap import stock_class

N = 5
ELEMENTWISE = [
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh",
    "leaky_relu", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink",
    "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh", "tanh_shrink",
]  # fmt: skip
MIXING = ["glu", "log_softmax", "softmax", "sparsemax"]


def double(cls, *args, **kwargs):
    return cls(*args, dtype="float64", **kwargs)


@keras.saving.register_keras_serializable("tests")
def mixing(x):
    return x * tf.reduce_sum(x, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("tests")
class Unhashable:
    """A callable that can be compared and therefore has no hash."""

    def __eq__(self, other):
        return isinstance(other, Unhashable)

    def __call__(self, x):
        return mixing(x)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


LAYERS = {
    "dense": lambda: (double(layers.Dense, 3), (4,)),
    "dense without bias": lambda: (double(layers.Dense, 3, use_bias=False), (4,)),
    "frozen dense": lambda: (double(layers.Dense, 3, trainable=False), (4,)),
    "dense of rows": lambda: (double(layers.Dense, 3), (2, 4)),
    "dense of rank 4": lambda: (double(layers.Dense, 2), (2, 3, 2)),
    "dense of rows with activation": lambda: (double(layers.Dense, 3, "tanh"), (2, 4)),
    "dense with a layer": lambda: (
        double(layers.Dense, 3, activation=double(layers.LeakyReLU)),
        (4,),
    ),
    "dense with a stock layer": lambda: (
        double(layers.Dense, 3, activation=double(keras.layers.Softmax)),
        (4,),
    ),
    "dense with softmax": lambda: (double(layers.Dense, 3, "softmax"), (4,)),
    "dense with a function": lambda: (double(layers.Dense, 3, mixing), (4,)),
    "dense with a callable": lambda: (double(layers.Dense, 3, Unhashable()), (4,)),
    "relu": lambda: (double(layers.ReLU), (3, 2)),
    "relu with options": lambda: (
        double(layers.ReLU, max_value=1.0, negative_slope=0.1, threshold=0.2),
        (4,),
    ),
    "leaky relu": lambda: (double(layers.LeakyReLU, negative_slope=0.3), (4,)),
    "elu": lambda: (double(layers.ELU), (4,)),
    "prelu": lambda: (double(layers.PReLU), (4,)),
    "prelu with shared slopes": lambda: (double(layers.PReLU, shared_axes=[1]), (2, 3)),
    "softmax": lambda: (double(layers.Softmax), (2, 3)),
    "softmax over two axes": lambda: (double(layers.Softmax, axis=(1, 2)), (2, 3)),
    "flatten": lambda: (double(layers.Flatten), (2, 3)),
    "flatten channels first": lambda: (
        double(layers.Flatten, data_format="channels_first"),
        (2, 3),
    ),
    "reshape": lambda: (double(layers.Reshape, (3, -1)), (6,)),
    **{
        name: lambda name=name: (double(layers.Activation, name), (4,))
        for name in [*ELEMENTWISE, *MIXING, "linear"]
    },
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def made(request):
    """A recording layer with random weights, and a batch for it."""
    layer, shape = request.param()
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(size=(N, *shape)))
    layer(x)
    for variable in layer.variables:
        variable.assign(generator.normal(size=variable.shape))
    return layer, x


def parts(layer):
    """What the layer does, as functions of one tensor, one for each operation to record."""
    if isinstance(layer, layers.Dense):
        bias = 0.0 if layer.bias is None else layer.bias
        affine = [lambda x: tf.matmul(x, layer.kernel) + bias]
        return affine + [layer.activation] * (layer.activation is not keras.activations.linear)
    return [] if getattr(layer, "activation", None) is keras.activations.linear else [layer]


def test_pull_back_is_the_mean_of_exact_pull_backs(made):
    layer, x = made
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch(x)
        output = layer(x)
    width = output[0].shape.num_elements()
    root = np.random.default_rng(1).normal(size=(width, width))

    pulled, expected = tf.constant(root @ root.T), root @ root.T
    functions = parts(layer)
    assert len(tape.operations) == len(functions)
    for index in reversed(range(len(functions))):
        operation, function = tape.operations[index], functions[index]
        jacobians = example_jacobians(function, operation.input.numpy())
        mean = jacobians.mean(axis=0)
        of_mean = mean.T @ expected @ mean
        expected = pulled_back(function, operation.input.numpy(), expected)
        pulled = operation.pull_back(pulled, tape)
        allclose(pulled, expected)
        # The mean Jacobian will only do where all examples have the same.
        assert wrong(pulled, of_mean) == (np.ptp(jacobians, axis=0).max() > 1e-9)


def test_a_recording_layer_computes_what_the_stock_layer_computes(made):
    layer, x = made
    stock = stock_class(type(layer)).from_config(layer.get_config())
    stock(x)
    stock.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(x), stock(x))
    with tf_kfgn.CurvatureTape():
        recorded = layer(x)

    @tf.function
    def recorded_in_a_graph(x):
        with tf_kfgn.CurvatureTape():
            return layer(x)

    graph = recorded_in_a_graph(x)
    np.testing.assert_array_equal(recorded, stock(x))
    np.testing.assert_array_equal(graph, tf.function(stock)(x))


def test_every_activation_of_keras_is_covered():
    functions = inspect.getmembers(keras.activations, inspect.isfunction)
    names = {function.__name__ for _, function in functions}
    others = {"get", "serialize", "deserialize", "threshold"}  # the last needs arguments
    assert names - others == {*ELEMENTWISE, *MIXING, "linear"}


@pytest.mark.parametrize("name", [*ELEMENTWISE, *MIXING])
def test_activations_get_the_rule_that_fits(name):
    with tf_kfgn.CurvatureTape() as tape:
        layers.Activation(name)(tf.ones((2, 4)))
    assert type(tape.operations[0]) is (Operation if name in MIXING else ElementwiseOperation)


def test_the_elementwise_rule_does_not_fit_a_function_that_mixes():
    x = tf.constant(np.random.default_rng(0).normal(size=(N, 3)))
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch(x)
        output = mixing(x)
    average = np.eye(3)
    expected = pulled_back(mixing, x.numpy(), average)
    allclose(Operation(None, x, output).pull_back(tf.constant(average), tape), expected)
    elementwise = ElementwiseOperation(None, x, output).pull_back(tf.constant(average), tape)
    assert wrong(elementwise, expected)


def test_channels_first_flattening_reorders():
    x = tf.constant(np.random.default_rng(0).normal(size=(N, 2, 3)))
    layer = double(layers.Flatten, data_format="channels_first")
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch(x)
        output = layer(x)
    average = tf.constant(np.diag(np.arange(6.0)))
    pulled = tape.operations[0].pull_back(average, tape)
    assert wrong(ReshapingOperation(layer, x, output).pull_back(average, tape), pulled)


@pytest.mark.parametrize("noise_shape", [None, (None, 1)])
def test_dropout_pulls_back_through_its_mask(noise_shape):
    layer = double(layers.Dropout, 0.5, noise_shape=noise_shape, seed=1)
    x = tf.constant(np.random.default_rng(0).normal(size=(20, 4)))
    with tf_kfgn.CurvatureTape() as tape:
        output = layer(x, training=True)
    masks = (output / x).numpy()
    root = np.random.default_rng(1).normal(size=(4, 4))
    average = root @ root.T
    pulled = tape.operations[0].pull_back(tf.constant(average), tape)
    allclose(pulled, np.mean([np.diag(m) @ average @ np.diag(m) for m in masks], axis=0))
    assert wrong(pulled, average)  # as in inference


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("name", ["many layers", "mlp_bernoulli"])
def test_pull_backs_are_the_same_in_a_graph_with_an_open_batch(name, mode):
    given = PROBLEMS[name]
    model = tf_kfgn.enable_curvature(given.model())
    shape = [None if mode == "graph" else len(given.x), *given.x.shape[1:]]

    def factors(x):
        with tf_kfgn.CurvatureTape() as tape:
            tape.watch_loss(given.loss, given.y, model(x))
        return [G for _, G in KFRAEstimator()(tape, tf.constant([1, 2])).values()]

    signature = [tf.TensorSpec(shape, tf.float64)]
    graph = tf.function(factors, input_signature=signature, jit_compile=mode == "xla")
    for actual, expected in zip(graph(given.x), factors(tf.constant(given.x)), strict=True):
        allclose(actual, expected)


def test_the_exact_rule_refuses_a_wide_output():
    layer = keras.layers.Identity(name="wide")
    tensor = tf.zeros((1, MAX_EXACT_WIDTH + 1))
    operation = Operation(layer, tensor, tensor)
    with pytest.raises(ValueError, match=r"'wide' \(Identity\).*4097 outputs.*KFLR or KFAC"):
        operation.pull_back(tf.zeros((MAX_EXACT_WIDTH + 1, 1)), tf.GradientTape())


def test_the_exact_rule_refuses_a_wide_softmax_in_a_model():
    wide = dense(MAX_EXACT_WIDTH + 1, "softmax", name="wide")
    given = random_problem("wide", lambda: sequential((1,), dense(1), wide, dense(1)), batch=2)
    _, tape, _ = record(given)
    with pytest.raises(ValueError, match=r"'wide' \(Dense\).*4097 outputs per example"):
        KFRAEstimator()(tape, tf.constant([1, 2]))


def test_a_dynamic_feature_axis_of_the_outputs_is_refused():
    model = tf_kfgn.enable_curvature(sequential((None, 4), dense(3)))

    @tf.function(input_signature=[tf.TensorSpec((None, None, 4), tf.float64)])
    def rows(x):
        with tf_kfgn.CurvatureTape() as tape:
            model(x)
        assert tape.operations[0].input_rows().shape.as_list() == [None, None, 5]
        for estimator in (KFRAEstimator(), KFLREstimator()):
            tape.watched_losses.clear()
            tape.watch_loss(MSE, None, tape.operations[0].output)
            with pytest.raises(ValueError, match=r"static feature axes.*keras\.Input"):
                estimator(tape, tf.constant([1, 2]))
        return x

    rows(np.zeros((2, 3, 4)))
