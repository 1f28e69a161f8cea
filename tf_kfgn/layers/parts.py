"""The parts of a model that record, and how all of them start and stop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from tf_kfgn._keras.layers import inner_layers
from tf_kfgn.layers.casting import NESTED_MODELS
from tf_kfgn.layers.composed import COMPOSED
from tf_kfgn.layers.graph_operations import GRAPH_OPERATIONS, graph_operations
from tf_kfgn.layers.opaque import LOOPS
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import LAYERS, RECORDING_CLASSES
from tf_kfgn.operations.marks import (
    is_kernel,
    mark_diagonal,
    mark_of,
    matrix_of,
    remove_marks,
)
from tf_kfgn.recording.replay import SEEDS, generators_of
from tf_kfgn.swapping.swap import Role, stock_class


def start_recording(model: keras.layers.Layer) -> contextlib.ExitStack:
    """Let the parts of a model record, and mark its variables.

    Returns:
        What undoes it when it is closed.

    Raises:
        ValueError: If a layer cannot record. Nothing is changed then.
    """
    with contextlib.ExitStack() as undo:
        unmarked = [variable for variable in model.variables if mark_of(variable) is None]
        undo.callback(remove_marks, unmarked)
        for role, part in parts(model):
            swapped = role.swap(part, undo)
            if role is LAYERS and part.built and isinstance(part, Recording):
                unmarked_own = any(mark_of(variable) is None for variable in part.variables)
                if swapped or unmarked_own:
                    part.mark_variables()
        for variable in model.variables:
            mark_diagonal(variable)
        return undo.pop_all()


def stop_recording(model: keras.layers.Layer) -> None:
    """Give the parts of a model their stock classes back, and its variables no marks."""
    for role, part in list(parts(model)):
        role.restore(part)
    remove_marks(model.variables)


def parts(model: keras.layers.Layer) -> Iterator[tuple[Role, Any]]:
    """Everything inside a model whose class is swapped, and its role.

    A layer that is made of other layers records itself only where they leave a gap.
    """
    layers = list(recordable_layers(model))
    for layer in layers:
        stock = stock_class(type(layer))
        composed = inner_layers(layer) and not isinstance(layer, LOOPS)
        if isinstance(layer, keras.Model):
            yield NESTED_MODELS, layer
        elif stock in RECORDING_CLASSES:
            yield LAYERS, layer
        elif composed:
            yield COMPOSED, layer
        elif not isinstance(layer, keras.layers.InputLayer):
            yield LAYERS, layer
    for operation in graph_operations([model, *layers]):
        yield GRAPH_OPERATIONS, operation
    for generator in generators_of(model):
        yield SEEDS, generator


def recordable_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Each layer inside a model once, but none inside a loop over positions."""
    seen: set[int] = set()
    waiting = inner_layers(layer)
    while waiting:
        inner = waiting.pop(0)
        if id(inner) in seen:
            continue
        seen.add(id(inner))
        yield inner
        if not isinstance(inner, LOOPS):
            waiting = inner_layers(inner) + waiting


def diagonal_variables(layer: keras.layers.Layer) -> list[Any]:
    """The trainable variables of a layer itself, not of layers inside, without a weight matrix.

    A bias beside a frozen kernel is one of them.
    """
    inner = [] if isinstance(layer, LOOPS) else list(recordable_layers(layer))
    theirs = {id(variable) for other in inner for variable in other.variables}
    kernels = {matrix_of(v) for v in layer.trainable_variables if is_kernel(v)}
    return [
        variable
        for variable in layer.trainable_variables
        if id(variable) not in theirs and matrix_of(variable) not in kernels
    ]
