"""One recorded pass of any built model, which is afterwards what it was before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from tf_kfgn.enabling import recording
from tf_kfgn.recording.tape import CurvatureTape


@contextlib.contextmanager
def recorded_pass(model: keras.Model, x: Any, loss: Any, y: Any) -> Iterator[CurvatureTape]:
    """Run a model in inference mode and watch its loss.

    Args:
        model: A built Keras model.
        x: Inputs, one batch.
        loss: What `compile(loss=...)` takes.
        y: Targets as the loss takes them, or None.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it has not been built, or the loss has no known curvature.
    """
    with recording(model):
        with CurvatureTape() as tape:
            outputs = model(x, training=False)
            tape.watch_loss(loss, y, outputs)
        yield tape
