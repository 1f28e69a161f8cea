"""The state of TensorFlow's gradient tapes, and the graph that they are in."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record

from tf_kfgn._keras.inventory import stands_for


@stands_for("tf.GradientTape._recording")
def is_recording(tape: tf.GradientTape) -> bool:
    """Whether a tape records now: `stop_recording` is an error for one that does not."""
    return bool(tape._recording)


@stands_for("tf.compat.v1.get_default_graph")
def current_graph() -> Any:
    """The graph that operations are added to; None where they run at once."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


@stands_for("FuncGraph.outer_graph")
def is_inside(graph: Any) -> bool:
    """Whether tensors of a graph can be used here: in it, or in a function or branch inside it."""
    current = current_graph()
    while current is not None and current is not graph:
        current = getattr(current, "outer_graph", None)
    return graph is None or current is graph


@stands_for("tensorflow.python.eager.record.could_possibly_record")
def may_be_recorded() -> bool:
    """Whether a tape or a forward accumulator, of whomever, is active in this thread."""
    return bool(record.could_possibly_record())
