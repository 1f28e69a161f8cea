"""Swapping the classes of a model's layers, in place, to those that record, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from tf_kfgn.layers import RECORDING_CLASSES
from tf_kfgn.layers.graph_operations import graph_operations, record_operation, stop_operation
from tf_kfgn.layers.nested_models import record_input_casts, stop_input_casts
from tf_kfgn.layers.opaque import LOOPS, opaque_class
from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.marks import mark_diagonal, mark_of, matrix_of, remove_marks
from tf_kfgn.recording.replay import make_stock


def start_recording(model: keras.layers.Layer) -> contextlib.ExitStack:
    """Let the layers of a model record, and mark its variables.

    Returns:
        What undoes it when it is closed.

    Raises:
        ValueError: If a layer cannot record. Nothing is changed then.
    """
    with contextlib.ExitStack() as undo:
        unmarked = [variable for variable in model.variables if mark_of(variable) is None]
        undo.callback(remove_marks, unmarked)
        for layer in recordable_layers(model):
            stock, cls = type(layer), recording_class(layer)
            if cls is not stock:
                layer.__class__ = cls
                undo.callback(setattr, layer, "__class__", stock)
            new = cls is not stock or any(mark_of(v) is None for v in layer.variables)
            if new and layer.built and isinstance(layer, Recording):
                layer.mark_variables()
        for variable in model.variables:
            mark_diagonal(variable)
        for operation in graph_operations([model, *recordable_layers(model)]):
            undo.callback(setattr, operation, "__class__", type(operation))
            record_operation(operation)
        for nested in nested_models(model):
            undo.callback(setattr, nested, "__class__", type(nested))
            record_input_casts(nested)
        return undo.pop_all()


def stop_recording(model: keras.layers.Layer) -> None:
    """Give the layers of a model their stock classes back, and its variables no marks."""
    for layer in recordable_layers(model):
        if isinstance(layer, Recording):
            stock: Any = layer.stock_class()
            if type(layer) is (RECORDING_CLASSES.get(stock) or opaque_class(stock)):
                layer.__class__ = stock  # but not a class that a user derived from ours
    for operation in graph_operations([model, *recordable_layers(model)]):
        stop_operation(operation)
    for nested in nested_models(model):
        stop_input_casts(nested)
    for layer in model._flatten_layers():
        make_stock(layer)
    remove_marks(model.variables)


def recording_class(layer: keras.layers.Layer) -> type:
    """The class with which a layer records itself, which may be the one it has.

    A layer that is made of other layers records nothing itself; they do.
    """
    cls: Any = type(layer)
    if cls in RECORDING_CLASSES:
        return RECORDING_CLASSES[cls]
    untouched = (Recording, keras.Model, keras.layers.InputLayer)
    if isinstance(layer, untouched) or (layer._layers and not isinstance(layer, LOOPS)):
        return cls
    return opaque_class(cls)


def recordable_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Each layer inside a model once, but none inside a loop over positions."""
    seen: set[int] = set()
    waiting = list(layer._layers)
    while waiting:
        inner = waiting.pop(0)
        if id(inner) in seen or isinstance(inner, keras.metrics.Metric):
            continue
        seen.add(id(inner))
        yield inner
        if not isinstance(inner, LOOPS):
            waiting = list(inner._layers) + waiting


def nested_models(model: keras.layers.Layer) -> list[keras.Model]:
    """The models inside a model."""
    return [layer for layer in recordable_layers(model) if isinstance(layer, keras.Model)]


def diagonal_variables(layer: keras.layers.Layer) -> list[Any]:
    """The trainable variables of a layer itself, not of layers inside, without a weight matrix."""
    inner = [] if isinstance(layer, LOOPS) else list(recordable_layers(layer))
    theirs = {id(variable) for other in inner for variable in other.variables}
    return [
        variable
        for variable in layer.trainable_variables
        if id(variable) not in theirs and matrix_of(variable) is None
    ]
