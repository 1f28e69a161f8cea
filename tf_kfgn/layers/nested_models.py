"""Models inside a model: Keras casts what they are given, as it does for a layer."""

from __future__ import annotations

import functools
from typing import Any

import keras

from tf_kfgn.layers.opaque import subclass
from tf_kfgn.layers.recording import RecordingCasts


def record_input_casts(model: keras.Model) -> None:
    """Let a model record the casts of its inputs on an active tape, in place."""
    if not isinstance(model, RecordingCasts):
        stock: Any = type(model)
        model.__class__ = _recording_class(stock)


def stop_input_casts(model: keras.Model) -> None:
    """Undo `record_input_casts`."""
    bases: Any = type(model).__mro__
    if bases[1] is RecordingCasts:  # a class of ours, not one derived from `tf_kfgn.Model`
        model.__class__ = bases[2]


@functools.cache
def _recording_class(stock: Any) -> type:
    return subclass(stock, RecordingCasts)
