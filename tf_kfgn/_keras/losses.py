"""What `compile(loss=...)` becomes, and what a loss object holds."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.trainers.compile_utils import CompileLoss

from tf_kfgn._keras.inventory import stands_for


class CompiledLoss(NamedTuple):
    """One loss of a compiled model.

    Attributes:
        path: Keys from the structure of outputs to the output that it is for.
        loss: A Keras loss object.
        weight: What it is multiplied by, or None.
    """

    path: tuple[Any, ...]
    loss: keras.losses.Loss
    weight: float | None


@stands_for("keras.src.trainers.compile_utils.CompileLoss", "CompileLoss._flat_losses")
def compiled_losses(loss: Any, y: Any, outputs: Any) -> tuple[list[CompiledLoss], tuple[str, ...]]:
    """Keras' own reading of strings, functions, dicts and lists of losses, which is not public.

    Args:
        loss: What `compile(loss=...)` takes, or the loss of a compiled model.
        y: Targets, or None.
        outputs: Structure of the model's outputs.

    Returns:
        The losses, and the names of the outputs.

    Raises:
        ValueError: If Keras cannot read them.
    """
    try:
        compiled = built_loss(loss, y, outputs)
    except TypeError as error:
        raise ValueError(
            f"`loss` does not fit the outputs of the model: received {loss!r} for outputs of the "
            f"structure {keras.tree.map_structure(lambda output: output.shape, outputs)}."
        ) from error
    names = keras.tree.flatten(compiled.output_names)
    flat = [CompiledLoss(path, one, weight) for path, one, weight, _ in compiled._flat_losses]
    return flat, tuple(name for name in names if name is not None)


@stands_for("keras.src.trainers.compile_utils.CompileLoss")
def built_loss(loss: Any, y: Any, outputs: Any) -> CompileLoss:
    """What a model compiles its loss to, built; with several outputs that makes variables.

    Args:
        loss: What `compile(loss=...)` takes, or the loss of a compiled model.
        y: Targets, or None.
        outputs: Structure of the model's outputs.
    """
    compiled = loss if isinstance(loss, CompileLoss) else CompileLoss(loss)
    if not compiled.built:
        compiled.build(outputs if y is None else y, outputs)
    return compiled


@stands_for("keras.src.losses.losses.LossFunctionWrapper", "LossFunctionWrapper._fn_kwargs")
def loss_function(loss: keras.losses.Loss) -> tuple[Any, dict[str, Any]]:
    """The function that a loss object wraps and its options, or None and no options.

    The public `get_config` would serialise the function, which a lambda cannot be.
    """
    own_call = type(loss).call is not LossFunctionWrapper.call
    if not isinstance(loss, LossFunctionWrapper) or own_call:
        return None, {}
    return loss.fn, loss._fn_kwargs


@stands_for("softmax(x)._keras_logits")
def logits_behind(outputs: Any) -> Any:
    """The logits that Keras hangs on the outputs of a softmax or sigmoid, or None."""
    return getattr(outputs, "_keras_logits", None)
