"""One recorded pass of any built model, which is afterwards what it was before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.models import input_structure
from tf_kfgn.analysis.examples import Examples
from tf_kfgn.enabling import recording
from tf_kfgn.recording.tape import CurvatureTape


@contextlib.contextmanager
def tape_of(model: keras.Model, batch: Examples, loss: Any) -> Iterator[CurvatureTape]:
    """The tape of a model that runs in inference mode, with its loss watched.

    Args:
        model: A built Keras model.
        batch: Inputs; targets and weights as the loss takes them, or None.
        loss: What `compile(loss=...)` takes.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, or the loss has no known curvature.
    """
    with recording(model):
        for leaf in keras.tree.flatten(batch.x):
            if leaf is not None and not hasattr(leaf, "shape"):
                raise ValueError(
                    "`x` must be one batch of inputs, an array or tensor or a structure of these, "
                    f"but holds {leaf!r} of type {type(leaf).__name__}."
                )
        with CurvatureTape() as tape:
            outputs = model(batch.x, training=False)
            batch.watch(tape, loss, outputs)
        yield tape


def example_inputs(model: keras.Model) -> Any:
    """One example of zeros, or empty strings, structured like `model.inputs`; None if unknown."""
    inputs = getattr(model, "inputs", None)
    if not inputs or any(None in tensor.shape[1:] for tensor in inputs):
        return None
    zeros = [tf.zeros((1, *tensor.shape[1:]), tensor.dtype) for tensor in inputs]
    structure = input_structure(model)
    structure = inputs[0] if structure is None else structure
    return keras.tree.pack_sequence_as(structure, zeros)
