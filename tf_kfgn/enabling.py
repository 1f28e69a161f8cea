"""enable_curvature and disable_curvature: swap the classes of a model and its layers, in place.

Nothing but classes, marks on variables and the traced training function changes: names, weights,
graph and predictions stay what they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from tf_kfgn.layers.parts import start_recording, stop_recording
from tf_kfgn.numerics.checks import check_flag
from tf_kfgn.operations.marks import matrix_of
from tf_kfgn.training import MODELS


def enable_curvature(model: keras.Model, *, strict: bool = False) -> keras.Model:
    """Let a built model record what curvature needs, in place.

    Layers and model become instances of their recording subclasses. Call it before `compile`, or
    after: the training function is traced anew.

    Args:
        model: A built Keras model: sequential, functional, nested or subclassed.
        strict: Whether to refuse a model with trainable weights that have no Kronecker block. By
            default these get a diagonal one; `curvature_summary` says which.

    Returns:
        The same model.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built; with `strict=True`, if a trainable weight has no
            Kronecker block. The model is unchanged then.
    """
    check_flag("strict", strict)
    with contextlib.ExitStack() as undo:
        undo.push(_start_recording(model))
        diagonal = [v.path for v in model.trainable_variables if matrix_of(v) is None]
        if strict and diagonal:
            raise ValueError(
                f"strict=True, but these trainable weights of {model.name!r} have no Kronecker "
                f"block, only a diagonal: {diagonal}. Freeze their layers, replace them, or pass "
                "strict=False."
            )
        undo.pop_all()
    _trace_anew(model)
    return model


def disable_curvature(model: keras.Model) -> keras.Model:
    """Give a model and its layers their stock Keras classes back, in place.

    A model of a class that was itself derived from `tf_kfgn.Model` keeps its class; its layers
    record no longer. The optimizer stays, and a file names it: compile with another one, or load
    the file with `compile=False`, where tf_kfgn is not installed.

    Args:
        model: A Keras model.

    Returns:
        The same model.

    Raises:
        TypeError: If `model` is not a Keras model.
    """
    _check_model(model)
    stop_recording(model)
    MODELS.restore(model)
    _trace_anew(model)
    return model


@contextlib.contextmanager
def recording(model: keras.Model) -> Iterator[None]:
    """Let a model record inside this context; afterwards it is what it was before.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built.
    """
    with _start_recording(model):
        yield


def _start_recording(model: keras.Model) -> contextlib.ExitStack:
    """Swap the classes and mark the variables; the result undoes it when it is closed."""
    check_built(model)
    with contextlib.ExitStack() as undo:
        undo.push(start_recording(model))
        MODELS.swap(model, undo)
        return undo.pop_all()


def check_built(model: Any) -> None:
    """Refuse what is not a built model.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built.
    """
    _check_model(model)
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} has not been built, so its layers have no weights yet. Start "
            "it with keras.Input(shape), call model.build(input_shape), or call it on a batch."
        )


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model, received {model!r} of type {type(model).__name__}."
        )


def _trace_anew(model: keras.Model) -> None:
    for name in ("train_function", "test_function", "predict_function"):
        if hasattr(model, name):
            setattr(model, name, None)
