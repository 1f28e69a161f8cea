"""The rules of a recording layer against per-example Jacobians of the stock layer.

A layer may record several operations and take several inputs: averages and columns go back
through all that it recorded, to the joint features of its inputs.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from passes import MODES, compiled

import tf_kfgn
from tf_kfgn.factors.live_averages import LiveAverages
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.swapping.swap import stock_class

N = 5


def kind_of(operation: Any) -> type:
    """The class of an operation; `LinearOperation` for one that is that, with more rules."""
    return LinearOperation if isinstance(operation, LinearOperation) else type(operation)


def normal(*shape: int, seed: int = 0) -> tf.Tensor:
    """A batch of normal features."""
    return tf.constant(np.random.default_rng(seed).normal(size=(N, *shape)))


def given(sources: list[tf.Tensor]) -> Any:
    """Inputs as a layer takes them: one tensor, or a list of several."""
    return sources[0] if len(sources) == 1 else sources


def recorded(layer: Any, inputs: Any, **options: Any) -> tuple[Any, tf_kfgn.CurvatureTape]:
    """Output and tape of one call."""
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch(inputs)
        output = layer(inputs, **options)
    return output, tape


def stock_of(layer: Any) -> Any:
    """The stock layer with the same configuration and weights."""
    stock = stock_class(type(layer)).from_config(layer.get_config())
    if layer.weights:
        stock.build(layer.get_build_config()["input_shape"])
        stock.set_weights(layer.get_weights())
    return stock


def joint_jacobians(function: Any, sources: list[tf.Tensor]) -> np.ndarray:
    """Jacobian of each example for all distinct inputs, `(N, outputs, inputs)`."""
    examples = []
    for n in range(N):
        own = [source[n : n + 1] for source in sources]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(own)
            output = function(n, own)
        found = tape.jacobian(
            output,
            own,
            experimental_use_pfor=False,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        width = int(tf.size(output))
        examples.append(np.concatenate([np.reshape(j, (width, -1)) for j in found], axis=1))
    return np.stack(examples)


def pulled(
    tape: tf_kfgn.CurvatureTape, output: tf.Tensor, average: Any, sources: list[tf.Tensor]
) -> np.ndarray:
    """An average over the output, after all recorded operations."""
    live = LiveAverages()
    live.add(output, tf.constant(average))
    for operation in reversed(tape.operations):
        own, crosses = live.remove(operation.output)
        moved = {key: operation.mean_transpose(block, tape) for key, block in crosses.items()}
        back = operation.pull_back(own, tape)
        live.spread(operation.inputs, operation.input_widths, back, moved)
    assert not live.tensors or {id(t) for t in live.tensors} <= {id(s) for s in sources}
    return np.block([[np.array(live.block(id(a), id(b))) for b in sources] for a in sources])


def moved_columns(
    tape: tf_kfgn.CurvatureTape, output: tf.Tensor, columns: Any, sources: list[tf.Tensor]
) -> np.ndarray:
    """Columns over the output, after the mean Jacobian of each recorded operation."""
    waiting = {id(output): tf.constant(columns)}
    for operation in reversed(tape.operations):
        moved = operation.mean_transpose(waiting.pop(id(operation.output)), tape)
        pieces = tf.split(moved, operation.input_widths, axis=0)
        for tensor, piece in zip(operation.inputs, pieces, strict=True):
            waiting[id(tensor)] = waiting.get(id(tensor), 0) + piece
    return np.concatenate([waiting[id(source)] for source in sources], axis=0)


def check_rules(
    layer: Any,
    sources: list[tf.Tensor],
    function: Any = None,
    passed: Any = None,
    rtol: float = 1e-9,
    atol: float = 1e-12,
    **options: Any,
) -> None:
    """Compare with the Jacobians of the stock layer.

    Args:
        layer: A recording layer.
        sources: Its distinct inputs.
        function: Of the number of an example and its inputs, the stock output. By default the
            stock layer, with the same options.
        passed: What the layer is called with, by default the sources.
        rtol: Tolerance, for float64.
        atol: Tolerance, for float64.
        **options: What it is called with besides.
    """
    output, tape = recorded(layer, given(sources) if passed is None else passed, **options)
    stock = stock_of(layer)
    function = function or (lambda n, own: stock(given(own), **options))
    jacobians = joint_jacobians(function, sources)
    width = jacobians.shape[1]
    if jacobians.dtype == np.float32:
        rtol, atol = 1e-5, 1e-4
    generator = np.random.default_rng(1)
    root, columns = generator.normal(size=(width, width)), generator.normal(size=(width, 2))
    root, columns = root.astype(jacobians.dtype), columns.astype(jacobians.dtype)
    average = root @ root.T
    expected = np.einsum("noi,op,npj->ij", jacobians, average, jacobians) / N
    found = pulled(tape, output, average, sources)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)
    moved = moved_columns(tape, output, columns, sources)
    np.testing.assert_allclose(moved, jacobians.mean(axis=0).T @ columns, rtol=rtol, atol=atol)


def check_bitwise(layer: Any, inputs: Any, modes: Any = MODES, **options: Any) -> None:
    """What the layer computes, inside a tape and outside, is what the stock layer computes."""
    stock = stock_of(layer)

    def inside(inputs: Any) -> Any:
        return recorded(layer, inputs, **options)[0]

    for mode in modes:
        expected = compiled(lambda inputs: stock(inputs, **options), mode)(inputs)
        for call in (lambda inputs: layer(inputs, **options), inside):
            np.testing.assert_array_equal(compiled(call, mode)(inputs), expected)


def check_saving(layer: Any, inputs: Any, path: Any) -> None:
    """A model with the layer is saved and loaded; a stock one is enabled and disabled."""
    symbols = keras.tree.map_structure(
        lambda tensor: keras.Input(tensor.shape[1:], dtype=tensor.dtype.name), inputs
    )
    model = keras.Model(symbols, layer(symbols))
    expected = model(inputs)
    model.save(path / "model.keras")
    loaded = keras.saving.load_model(path / "model.keras")
    assert type(loaded.layers[-1]) is type(layer)
    np.testing.assert_array_equal(loaded(inputs), expected)
    stock = stock_of(layer)
    plain = keras.Model(symbols, stock(symbols))
    tf_kfgn.enable_curvature(plain)
    assert type(stock) is type(layer)
    np.testing.assert_array_equal(plain(inputs), expected)
    tf_kfgn.disable_curvature(plain)
    assert type(stock) is stock_class(type(layer))
    np.testing.assert_array_equal(plain(inputs), expected)
