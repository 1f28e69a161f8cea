"""What can be known of a GPU without one: which operations have a kernel there, and what lowers.

The wheel of TensorFlow has the kernels for GPUs in it, and names them. So the graph of a whole
update is read, functions in functions included, and each operation looked up, both for the plain
graph and for XLA. Blocks are lowered by XLA's bridge for the platform "GPU" besides.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import LOGITS, NETWORKS, Network, classes, images
from tensorflow.python.framework import kernels

import tf_kfgn
from tf_kfgn.blocks import collection

# What the runtime itself does, wherever the tensors are.
EVERYWHERE = "DEFAULT"
# Of a traced function alone; XLA turns them into parameters and results.
SIGNATURE = {"Placeholder", "_Arg", "_Retval"}


def convolutional() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((12, 12, 2)),
            layers.Conv2D(4, 3, strides=2, activation="relu", kernel_regularizer="l2"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


@pytest.fixture(scope="module", autouse=True)
def xla_is_ready():
    """TensorFlow enters the kernels of XLA when it is first asked to compile."""
    tf.function(tf.square, jit_compile=True)(1.0)


def operations(function):
    """Names of the operations of a concrete function and of those that it calls, and a node."""
    graph = function.graph.as_graph_def()
    of_functions = (node for other in graph.library.function for node in other.node_def)
    found = {node.op: node.name for node in (*graph.node, *of_functions)}
    own = {other.signature.name for other in graph.library.function}
    return {op: name for op, name in found.items() if op not in own | SIGNATURE}


def without_kernel(function, device):
    """Operations of a concrete function that have no kernel for a type of device."""

    def devices(op):
        return {kernel.device_type for kernel in kernels.get_registered_kernels_for_op(op).kernel}

    allowed = {device} if device.startswith("XLA") else {device, EVERYWHERE}
    return {op: name for op, name in operations(function).items() if not devices(op) & allowed}


def update(model, x, y):
    """The graph of an update on one batch."""

    def step(inputs, targets):
        return model.train_step((inputs, targets))

    specs = [tf.TensorSpec(np.shape(value), np.asarray(value).dtype) for value in (x, y)]
    return tf.function(step).get_concrete_function(*specs)


PROBLEMS = {
    "convolutional": Network(convolutional, images(12, 2), classes(), LOGITS),
    "transformer": NETWORKS["transformer"],
    "masked LSTM": NETWORKS["masked LSTM"],
}


@pytest.mark.parametrize(
    ("problem", "optimizer"),
    [
        ("convolutional", tf_kfgn.KFRA),
        ("convolutional", tf_kfgn.KFAC),
        ("convolutional", tf_kfgn.HessianFree),
        ("transformer", tf_kfgn.KFRA),
        ("masked LSTM", tf_kfgn.KFLR),
    ],
)
def test_every_operation_of_an_update_has_a_kernel_on_a_gpu(problem, optimizer):
    network = PROBLEMS[problem]
    model = tf_kfgn.enable_curvature(network.build())
    model.compile(optimizer(), network.loss)
    model.optimizer.build(model.trainable_variables)
    function = update(model, network.x, network.y)
    assert len(operations(function)) > 50
    assert without_kernel(function, "GPU") == {}
    assert without_kernel(function, "XLA_GPU_JIT") == {}


def test_a_host_callback_would_be_found():
    def step(x):
        return tf.numpy_function(np.square, [x], tf.float32), tf.square(x)

    function = tf.function(step).get_concrete_function(tf.TensorSpec((2,)))
    for device in ("GPU", "XLA_GPU_JIT"):
        assert set(without_kernel(function, device)) == {"PyFunc"}


def test_inverses_and_preconditioning_lower_for_a_gpu():
    model = tf_kfgn.enable_curvature(convolutional())
    optimizer = tf_kfgn.KFAC(max_factor_size=20)  # so that one factor is diagonal
    optimizer.build(model.trainable_variables)
    layout, states = optimizer.layout, optimizer.memory.read().blocks

    def direction(damping, *tensors):
        gradient, flat = tensors[:count], list(tensors[count:])
        inverted, failures = collection.invert(
            layout.blocks, tf.nest.pack_sequence_as(states, flat), layout.block_dampings(damping)
        )
        return collection.precondition(layout.blocks, inverted, gradient), failures

    count, values = len(layout.variables), tf.nest.flatten(states)
    shapes = [(), *(value.shape for value in (*layout.variables, *values))]
    specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    function = tf.function(direction, jit_compile=True)
    lowered = function.experimental_get_compiler_ir(*specs)(stage="hlo", platform_name="GPU")
    assert " cholesky(" in lowered
    assert "custom-call" not in lowered  # as that of a factorisation that only a CPU has
