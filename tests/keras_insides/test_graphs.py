"""What `tf_kfgn._keras.graphs` says of operations is so."""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_kfgn._keras import graphs


def operation_of(function):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, function(inputs))
    [operation] = [o for o in model.operations if not isinstance(o, keras.layers.Layer)]
    return operation, inputs, model.outputs


def test_first_call():
    operation, inputs, outputs = operation_of(lambda x: keras.ops.clip(x, -1.0, 2.0))
    call = graphs.first_call(operation)
    assert call.args[0] is inputs
    assert call.inputs == [inputs]
    assert [o.shape for o in call.outputs] == [o.shape for o in outputs]
    operation, inputs, _ = operation_of(lambda x: 2.0 - x)
    call = graphs.first_call(operation)  # with a constant before it
    assert [value is inputs for value in call.args] == [False, True]


def test_is_stock_operation():
    operation, *_ = operation_of(keras.ops.tanh)
    assert graphs.is_stock_operation(type(operation))
    assert not graphs.is_stock_operation(keras.layers.Dense)


def test_graph_of_function():
    def function(x, due):
        return tf.cond(due, lambda: tf.tanh(x), lambda: x)

    specs = tf.TensorSpec((2,), tf.float32), tf.TensorSpec((), tf.bool)
    graph = tf.function(function).get_concrete_function(*specs).graph
    [condition] = [o for o in graph.get_operations() if o.type in ("If", "StatelessIf")]
    inner = graphs.graph_of_function(graph, condition.get_attr("then_branch").name)
    assert "Tanh" in {operation.type for operation in inner.get_operations()}
    assert len(inner.inputs) == len(condition.inputs) - 1
